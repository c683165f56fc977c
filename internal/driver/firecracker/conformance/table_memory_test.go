package conformance

// networkScenarios are interfaces that need no tap.
func networkScenarios() []scenario {
	put := func(name, path, body, said string) scenario {
		return one("network: "+name, "PUT", "/network-interfaces"+path, body, said)
	}
	const create = "Network config error: Could not create the network device: "
	return []scenario{
		put("no name", "", `{}`, faultOf(`The ID cannot be empty\.`)),
		put("a hyphen", "/a-b", `{}`, faultOf(`API Resource IDs can only contain alphanumeric characters and underscores\.`)),
		put("nothing", "/a", `{}`, badJSON("missing field `iface_id` at line 1 column 2")),
		put("no tap", "/a", `{"iface_id":"a"}`, badJSON("missing field `host_dev_name` at line 1 column 16")),
		put("unknown field", "/a", `{"iface_id":"a","host_dev_name":"t","nope":1}`,
			badJSON("unknown field `nope`, expected one of `iface_id`, `host_dev_name`, `guest_mac`, `mtu`, `rx_rate_limiter`, `tx_rate_limiter` at line 1 column 42")),
		put("another name", "/a", `{"iface_id":"b","host_dev_name":"t"}`, faultOf(`The id from the path \[a\] does not match the id from the body \[b\]!`)),
		put("address at the end", "/a", `{"iface_id":"a","host_dev_name":"t","guest_mac":"zz"}`, badJSON(`The provided MAC address is invalid\. at line 1 column 53`)),
		put("address before the end", "/a", `{"iface_id":"a","guest_mac":"02:00:00:00:00:0G","host_dev_name":"t"}`, badJSON(`The provided MAC address is invalid\. at line 1 column 47`)),
		put("number for an address", "/a", `{"iface_id":"a","host_dev_name":"t","guest_mac":5}`, badJSON("invalid type: integer `5`, expected a string at line 1 column 49")),
		put("MTU too large", "/a", `{"iface_id":"a","host_dev_name":"t","mtu":70000}`, badJSON("invalid value: integer `70000`, expected u16 at line 1 column 47")),
		put("long name", "/a", `{"iface_id":"a","host_dev_name":"tttttttttttttttt"}`, faultOf(create+"Open tap device failed: Invalid interface name")),
	}
}

// memoryScenarios are about the balloon, virtio-mem and huge pages. The guest is
// one without drivers.
func memoryScenarios() []scenario {
	before, after := faultOf(`The requested operation is not supported before starting the microVM\.`), faultOf(`The requested operation is not supported after starting the microVM\.`)
	balloon := func(name, body, said string) scenario { return one("balloon: "+name, "PUT", "/balloon", body, said) }
	hotplug := func(name, body, said string) scenario {
		return one("hotplug: "+name, "PUT", "/hotplug/memory", body, said)
	}
	config := func(said string) string { return faultOf("Memory hotplug config error: " + said) }
	const smaller = `Machine config error: The memory size \(MiB\) is smaller than the previously set balloon device target size\.`
	return []scenario{
		balloon("nothing", `{}`, badJSON("missing field `amount_mib` at line 1 column 2")),
		balloon("no word about memory that runs out", `{"amount_mib":1}`, badJSON("missing field `deflate_on_oom` at line 1 column 16")),
		balloon("unknown field", `{"amount_mib":1,"deflate_on_oom":true,"x":1}`,
			badJSON("unknown field `x`, expected one of `amount_mib`, `deflate_on_oom`, `stats_polling_interval_s`, `free_page_hinting`, `free_page_reporting` at line 1 column 41")),
		balloon("negative", `{"amount_mib":-1,"deflate_on_oom":true}`, badJSON("invalid value: integer `-1`, expected u32 at line 1 column 16")),
		balloon("more than there is", `{"amount_mib":129,"deflate_on_oom":true}`, faultOf(`Balloon config error: Amount of pages requested is too large\.`)),
		one("balloon: none", "GET", "/balloon", "", faultOf(`Balloon config error: No balloon device found\.`)),
		one("balloon: too early for statistics", "GET", "/balloon/statistics", "", before),
		one("balloon: another path", "GET", "/balloon/x", "", faultOf("Unrecognized GET request path `x`\\.")),
		one("balloon: too early", "PATCH", "/balloon", `{"amount_mib":1}`, before),
		one("balloon: PATCH of nothing", "PATCH", "/balloon", `{}`, badJSON("missing field `amount_mib` at line 1 column 2")),
		one("balloon: PATCH without a body", "PATCH", "/balloon", "", faultOf(`Empty PATCH request\.`)),
		one("balloon: statistics too early", "PATCH", "/balloon/statistics", `{"stats_polling_interval_s":1}`, before),
		hotplug("nothing", `{}`, badJSON("missing field `total_size_mib` at line 1 column 2")),
		hotplug("string", `{"total_size_mib":"x"}`, badJSON(`invalid type: string \\"x\\", expected usize at line 1 column 21`)),
		hotplug("unknown field", `{"total_size_mib":128,"x":1}`, badJSON("unknown field `x`, expected one of `total_size_mib`, `block_size_mib`, `slot_size_mib` at line 1 column 25")),
		hotplug("less than a slot", `{"total_size_mib":1}`, config(`Total size must not be lower than slot size \(128 MiB\)`)),
		hotplug("not whole slots", `{"total_size_mib":129}`, config(`Total size must be a multiple of slot size \(128 MiB\)`)),
		hotplug("small blocks", `{"total_size_mib":128,"block_size_mib":1}`, config("Block size must not be lower than 2 MiB")),
		hotplug("odd blocks", `{"total_size_mib":128,"block_size_mib":3}`, config("Block size must be a power of 2")),
		hotplug("small slots", `{"total_size_mib":128,"slot_size_mib":64}`, config("Slot size must not be lower than 128 MiB")),
		hotplug("odd slots", `{"total_size_mib":512,"slot_size_mib":192,"block_size_mib":128}`, config(`Slot size must be a multiple of block size \(128 MiB\)`)),
		one("hotplug: too early to ask", "GET", "/hotplug/memory", "", before),
		one("hotplug: too early", "PATCH", "/hotplug/memory", `{"requested_size_mib":0}`, before),
		one("hotplug: PATCH of nothing", "PATCH", "/hotplug/memory", `{}`, badJSON("missing field `requested_size_mib` at line 1 column 2")),
		one("hotplug: another path", "PUT", "/hotplug/x", `{}`, faultOf(`Invalid request method and/or path: PUT hotplug\.`)),
		one("huge pages: of one GiB", "PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":1024,"huge_pages":"1G"}`, "unknown variant `1G`, expected `None` or `2M`"),
		{name: "balloon: without a driver", steps: []step{
			{"PUT", "/balloon", `{"amount_mib":128,"deflate_on_oom":false}`, 204, ""},
			{"GET", "/balloon", "", 200, `^\{"amount_mib":128,"deflate_on_oom":false,"stats_polling_interval_s":0,"free_page_hinting":false,"free_page_reporting":false\}$`},
			{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":64}`, 400, faultOf(smaller)}, {"PATCH", "/machine-config", `{"mem_size_mib":64}`, 400, faultOf(smaller)},
			{"PUT", "/balloon/x", `{"amount_mib":5,"deflate_on_oom":true,"free_page_reporting":true,"stats_polling_interval_s":1}`, 204, ""},
			{"GET", "/vm/config", "", 200, `"balloon":\{"amount_mib":5,"deflate_on_oom":true,"stats_polling_interval_s":1,"free_page_hinting":false,"free_page_reporting":true\},`},
			boot(), launch(),
			{"GET", "/balloon", "", 200, `"amount_mib":5`}, {"GET", "/balloon/statistics", "", 200, `^\{"target_pages":1280,"actual_pages":0,"target_mib":5,"actual_mib":0\}$`},
			{"PATCH", "/balloon", `{"amount_mib":1}`, 400, faultOf(`Balloon update error: Balloon: Device not activated yet\.`)},
			{"PATCH", "/balloon/statistics", `{"stats_polling_interval_s":2}`, 204, ""},
			{"PATCH", "/balloon/statistics", `{"stats_polling_interval_s":0}`, 400, faultOf(`Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation\.`)},
			{"PUT", "/balloon", `{"amount_mib":1,"deflate_on_oom":true}`, 400, after},
			{"GET", "/vm/config", "", 200, `"balloon":\{"amount_mib":5,"deflate_on_oom":true,"stats_polling_interval_s":2,`},
		}},
		{name: "balloon: no statistics", steps: []step{
			{"PUT", "/balloon", `{"amount_mib":0,"deflate_on_oom":true}`, 204, ""}, boot(), launch(),
			{"GET", "/balloon/statistics", "", 400, faultOf(`Internal VMM error: Balloon: Received stats query when stats are disabled\.`)},
			{"PATCH", "/balloon/statistics", `{"stats_polling_interval_s":1}`, 400, `Statistics cannot be enabled/disabled after activation\.`},
		}},
		{name: "hotplug: without a driver", steps: []step{
			{"PUT", "/hotplug/memory", `{"total_size_mib":256}`, 204, ""},
			{"GET", "/vm/config", "", 200, `"memory-hotplug":\{"total_size_mib":256,"block_size_mib":2,"slot_size_mib":128\}`}, boot(), launch(),
			{"GET", "/hotplug/memory", "", 200, `^\{"block_size_mib":2,"total_size_mib":256,"slot_size_mib":128,"plugged_size_mib":0,"requested_size_mib":0\}$`},
			{"PATCH", "/hotplug/memory", `{"requested_size_mib":128}`, 400, faultOf(`Memory hotplug update error: Failed to create memory hotplug device: Device is not active`)},
			{"PUT", "/hotplug/memory", `{"total_size_mib":256}`, 400, after},
			{"GET", "/vm/config", "", 200, `"memory-hotplug":\{"total_size_mib":256,`},
		}},
		{name: "memory: no device for it", steps: running(
			step{"GET", "/balloon", "", 400, faultOf("Internal VMM error: Failed perform action on device: Device not found")},
			step{"GET", "/balloon/statistics", "", 400, faultOf("Internal VMM error: Failed perform action on device: Device not found")},
			step{"PATCH", "/balloon", `{"amount_mib":1}`, 400, faultOf("Balloon update error: Failed perform action on device: Device not found")},
			step{"GET", "/hotplug/memory", "", 400, faultOf("Internal VMM error: Failed perform action on device: Device not found")},
			step{"PATCH", "/hotplug/memory", `{"requested_size_mib":0}`, 400, faultOf("Memory hotplug update error: Failed perform action on device: Device not found")},
		)},
		{name: "memory: with a driver", fakeOnly: "its guest is a loop", steps: []step{
			{"PUT", "/hotplug/memory", `{"total_size_mib":256}`, 204, ""}, {"PUT", "/balloon", `{"amount_mib":0,"deflate_on_oom":true,"stats_polling_interval_s":1}`, 204, ""},
			{"PUT", "/boot-source", `{"kernel_image_path":"{kernel}","boot_args":"fake.guest=take-memory,say:taken"}`, 204, ""}, launch(),
			{"AWAIT", "", "\ntaken", 0, ""}, // and not the command line, which has the word too
			{"PATCH", "/hotplug/memory", `{"requested_size_mib":1}`, 400, faultOf("Memory hotplug update error: Failed to create memory hotplug device: Size 1048576 is invalid: it must be a multiple of block size and less than the total size")},
			{"PATCH", "/hotplug/memory", `{"requested_size_mib":512}`, 400, "Size 536870912 is invalid"},
			{"PATCH", "/hotplug/memory", `{"requested_size_mib":128}`, 204, ""}, {"GET", "/hotplug/memory", "", 200, `"plugged_size_mib":128,"requested_size_mib":128\}$`},
			{"PATCH", "/balloon", `{"amount_mib":64}`, 204, ""}, {"GET", "/balloon", "", 200, `"amount_mib":64`}, {"GET", "/balloon/statistics", "", 200, `"target_mib":64,"actual_mib":64`},
			{"PATCH", "/balloon", `{"amount_mib":1000}`, 400, faultOf("Balloon update error: Balloon: Requested memory should be less than 1000MiB")},
		}},
	}
}
