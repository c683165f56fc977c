package conformance

import "strings"

// typeCases are about JSON: vmm/src/vm_config.rs, serde_json.
func typeCases() []scenario {
	bad := func(words string) string {
		return `^\["Failed to deserialize JSON","` + words + ` at line 1 column \d+"\]$`
	}
	end := put("vmm.shutdown", 200, "")
	wrong := []request{
		refusedCreate(`{"memory":{"size":"512M"}}`, bad(`invalid type: string \\"512M\\", expected u64`)),
		refusedCreate(`{"memory":{"size":-1}}`, bad("invalid value: integer `-1`, expected u64")),
		refusedCreate(`{"memory":{"size":1.5}}`, bad("invalid type: floating point `1.5`, expected u64")),
		refusedCreate(`{"memory":{"size":null}}`, bad("invalid type: null, expected u64")),
		refusedCreate(`{"memory":{}}`, bad("missing field `size`")),
		refusedCreate(`{"memory":5}`, bad("invalid type: integer `5`, expected struct MemoryConfig")),
		refusedCreate(`{"memory":{"size":1,"shared":1}}`, bad("invalid type: integer `1`, expected a boolean")),
		refusedCreate(`{"memory":{"size":1,"hotplug_method":"acpi"}}`, bad("unknown variant `acpi`, expected `Acpi` or `VirtioMem`")),
		refusedCreate(`{"cpus":{"boot_vcpus":1}}`, bad("missing field `max_vcpus`")),
		refusedCreate(`{"cpus":{"boot_vcpus":4294967296,"max_vcpus":1}}`, bad("invalid value: integer `4294967296`, expected u32")),
		refusedCreate(`{"cpus":{"boot_vcpus":1,"boot_vcpus":1,"max_vcpus":1}}`, bad("duplicate field `boot_vcpus`")),
		refusedCreate(`{"cpus":{"boot_vcpus":1,"max_vcpus":1,"core_scheduling":"None"}}`, bad("unknown variant `None`, expected one of `Vm`, `Vcpu`, `Off`")),
		refusedCreate(`{"cpus":{"boot_vcpus":1,"max_vcpus":1,"max_phys_bits":256}}`, bad("invalid value: integer `256`, expected u8")),
		refusedCreate(`{"payload":{"kernel":7}}`, bad("invalid type: integer `7`, expected path string")),
		refusedCreate(`{"payload":{"cmdline":7}}`, bad("invalid type: integer `7`, expected a string")),
		refusedCreate(`{"payload":[7]}`, bad("invalid type: integer `7`, expected path string")),
		refusedCreate(`{"cpus":[1]}`, bad("invalid length 1, expected struct CpusConfig with 10 elements")),
		refusedCreate(`{"disks":{}}`, bad("invalid type: map, expected a sequence")),
		refusedCreate(`{"disks":[{"path":"a","readonly":"yes"}]}`, bad(`invalid type: string \\"yes\\", expected a boolean`)),
		refusedCreate(`{"disks":[{"path":"a","image_type":"raw"}]}`, bad("unknown variant `raw`, expected one of `FixedVhd`, `Qcow2`, `Raw`, `Vhdx`, `Unknown`")),
		refusedCreate(`{"disks":[{"path":"a","pci_segment":70000}]}`, bad("invalid value: integer `70000`, expected u16")),
		refusedCreate(`{"disks":[{"path":"a","rate_limiter_config":{"bogus":1}}]}`, bad("unknown field `bogus`, expected `bandwidth` or `ops`")),
		refusedCreate(`{"rng":{}}`, bad("missing field `src`")),
		refusedCreate(`{"vsock":{"cid":3}}`, bad("missing field `socket`")),
		refusedCreate(`{"vsock":{"cid":"3","socket":"v"}}`, bad(`invalid type: string \\"3\\", expected u32`)),
		refusedCreate(`{"serial":{"mode":"tty"}}`, bad("unknown variant `tty`, expected one of `Off`, `Pty`, `Tty`, `File`, `Socket`, `Null`")),
		refusedCreate(`{"serial":{}}`, bad("missing field `mode`")),
		refusedCreate(`{"console":"Off"}`, bad(`invalid type: string \\"Off\\", expected struct ConsoleConfig`)),
		refusedCreate(`{"pvpanic":"on"}`, bad(`invalid type: string \\"on\\", expected a boolean`)),
		refusedCreate(`{"platform":{"oem_strings":"one"}}`, bad(`invalid type: string \\"one\\", expected a sequence`)),
		refusedCreate(`{"platform":{"oem_strings":["one",2]}}`, bad("invalid type: integer `2`, expected a string")),
		refusedCreate(`{"platform":{"uuid":"a","system_uuid":"b"}}`, bad("duplicate field `system_uuid`")),
		refusedCreate(`{"landlock_rules":[{"path":"x"}]}`, bad("missing field `access`")),
		refusedCreate(`[]`, bad("invalid length 2, expected struct VmConfig with 28 elements")),
		refusedCreate(`7`, bad("invalid type: integer `7`, expected struct VmConfig")),
		refusedCreate(`{"payload":{"kernel":"a"`, bad("EOF while parsing an object")),
		refusedCreate(`{"payload":{"kernel":"a`, bad("EOF while parsing a string")),
		refusedCreate(`{"payload":`, bad("EOF while parsing a value")),
		refusedCreate(`nonsense`, bad("expected ident")),
		refusedCreate(`SECRET`, bad("expected value")),
		refusedCreate(`{} {}`, bad("trailing characters")),
		get("vm.info", 404, notCreate), end,
	}
	return []scenario{
		{name: "wrong types", requests: wrong, events: "vmm:shutdown"},
		{name: "unknown names are passed over", requests: []request{
			create(boots(`"bogus":1`, `"payload":{"kernel":"kernel","bogus":{"a":[1]}}`, `"platform":{"uuid":"6b6ed9a1-2e0b-4f3a-9d2e-0f1e2d3c4b5a","oem_strings":["a=b","é"],"bogus":null}`)),
			get("vm.info", 200, `"oem_strings":\["a=b","é"\]`), end,
		}, events: "vm:deleted vmm:shutdown"},
		{name: "a sequence in the place of a map", requests: []request{create(`{"payload":["a","b"],"memory":[4096]}`), get("vm.info", 200, `"payload":\{"firmware":"a","kernel":"b"\}`), end}, events: "vm:deleted vmm:shutdown"},
		{name: "null is nothing where it may be", requests: []request{
			create(`{"payload":null,"disks":null,"vsock":null,"platform":{"oem_strings":null}}`), get("vm.info", 200, `"memory":\{"size":536870912,`), end,
		}, events: "vm:deleted vmm:shutdown"},
		{name: "everything has a default", requests: []request{create(`{}`), get("vm.info", 200, `"console":\{"mode":"Tty"`), end}, events: "vm:deleted vmm:shutdown"},
		{name: "devices in full", requests: []request{
			create(boots(`"disks":[{"path":"disk","id":"root","readonly":true,"serial":"s","image_type":"Raw"}]`, `"vsock":{"cid":3,"socket":"v","id":"vs"}`,
				`"rng":{"src":"/dev/urandom","iommu":true}`, `"balloon":{"size":4096}`, `"watchdog":true`, `"pvpanic":true`, `"cpus":{"boot_vcpus":1,"max_vcpus":2,"affinity":[{"vcpu":0,"host_cpus":[0]}]}`)),
			get("vm.info", 200, `"disks":\[\{"id":"root",`), end,
		}, events: "vm:deleted vmm:shutdown"},
	}
}

// bootCase is a configuration that is stored and does not boot.
func bootCase(name, body, says string) scenario {
	return scenario{name: name, requests: []request{
		create(body), put("vm.boot", 500, `^\["Error from API","The VM could not boot",`+says+`\]$`), put("vmm.shutdown", 200, ""),
	}}
}

// bootCases are about what is opened and loaded: vmm/src/vm.rs, linux-loader.
func bootCases() []scenario {
	loader := func(words string) string {
		return `"Cannot load the kernel into memory","Kernel Loader: failed to load bzImage kernel image: Kernel Loader: ` + words + `","Kernel Loader: ` + words + `"`
	}
	kernel := func(name string) string { return boots(`"payload":{"kernel":"` + name + `"}`) }
	cmdline := func(words string) string { return boots(`"payload":{"kernel":"kernel","cmdline":"` + words + `"}`) }
	unprintable := `"Cannot modify the kernel command line","String contains a non-printable ASCII character\."`
	return []scenario{
		bootCase("kernel: not there", kernel("nowhere"), `"Cannot open kernel file","No such file or directory \(os error 2\)"`),
		bootCase("kernel: text", kernel("text"), loader("Invalid bzImage")),
		bootCase("kernel: short text", kernel("short"), loader("Invalid bzImage")),
		bootCase("kernel: empty", kernel("empty"), loader("Invalid bzImage")),
		bootCase("kernel: a directory", kernel("."), loader("Unable to read bzImage header")),
		bootCase("kernel: without the note", kernel("nonote"), `"Kernel lacks PVH header"`),
		bootCase("kernel: larger than memory", boots(`"memory":{"size":1048576}`), loader("Invalid bzImage")),
		bootCase("kernel: bzImage cut short", kernel("bzimage-short"), loader("Underflow occurred during an arithmetic operation")),
		bootCase("kernel: bzImage that starts too low", kernel("bzimage-low"), `"Cannot load the kernel into memory","Kernel Loader: invalid kernel start address"`),
		bootCase("initramfs: not there", boots(`"payload":{"kernel":"kernel","initramfs":"nowhere"}`), `"Cannot open initramfs file","No such file or directory \(os error 2\)"`),
		bootCase("initramfs: larger than memory", boots(`"payload":{"kernel":"kernel","initramfs":"large"}`), `"Cannot determine initramfs load address","Failed to compute initramfs address"`),
		bootCase("command line: newline", cmdline(`a\nb`), unprintable),
		bootCase("command line: NUL", cmdline(`a\u0000b`), unprintable),
		bootCase("command line: UTF-8", cmdline(`é`), unprintable),
		{name: "what boots", requests: []request{
			create(cmdline(strings.Repeat("x", 40000))), put("vm.boot", 204, ""), put("vm.delete", 204, ""),
			create(boots(`"payload":{"kernel":"kernel","initramfs":"empty"}`)), put("vm.boot", 204, ""), put("vm.delete", 204, ""),
			create(boots(`"payload":{"kernel":"bzimage"}`)), put("vm.boot", 204, ""), put("vm.delete", 204, ""),
			create(boots(`"platform":{"oem_strings":["` + strings.Repeat("y", 40000) + `","","a\u0000b"]}`)), put("vm.boot", 204, ""), put("vmm.shutdown", 200, ""),
		}, events: strings.Repeat("vm:booting vm:booted vm:shutdown vm:deleted ", 4) + "vmm:shutdown"},
	}
}

// checkCases are about what is checked at vm.boot: vmm/src/config.rs,
// vmm/src/memory_manager.rs.
func checkCases() []scenario {
	invalid := func(words string) string { return `"Failed to validate config","` + words + `"` }
	return []scenario{
		bootCase("no payload", `{"console":{"mode":"Off"}}`, `"Failed to validate config","Payload configuration is not bootable","No bootitem provided: neither firmware nor kernel"`),
		bootCase("kernel and firmware", boots(`"payload":{"kernel":"kernel","firmware":"kernel"}`), `"Failed to validate config","Payload configuration is not bootable","Specifying a kernel is not supported when a firmware is provided"`),
		bootCase("memory: none", boots(`"memory":{"size":0}`), `"Memory manager error","No memory zones found"`),
		bootCase("memory: not whole pages", boots(`"memory":{"size":67108865}`), `"Memory manager error","Memory size is misaligned with default page size or its hugepage size"`),
		bootCase("memory comes before the rest", `{"memory":{"size":0},"console":{"mode":"Off"}}`, `"Memory manager error","No memory zones found"`),
		bootCase("memory: mergeable and shared", boots(`"memory":{"size":67108864,"mergeable":true,"shared":true}`), invalid("Invalid to set both 'mergeable' and 'shared' for memory")),
		bootCase("memory: size of huge pages alone", boots(`"memory":{"size":67108864,"hugepage_size":2097152}`), invalid("Huge page size specified but huge pages not enabled")),
		bootCase("processors: more than at most", boots(`"cpus":{"boot_vcpus":2,"max_vcpus":1}`), invalid(`Max CPUs \(1\) lower than boot CPUs \(2\)`)),
		bootCase("processors: too many", boots(`"cpus":{"boot_vcpus":1,"max_vcpus":8193}`), invalid("Too many CPUs: specified 8193 but 8192 is the limit")),
		bootCase("processors: topology", boots(`"cpus":{"boot_vcpus":1,"max_vcpus":1,"topology":{"threads_per_core":1,"cores_per_die":2,"dies_per_package":1,"packages":1}}`), invalid("Product of CPU topology parts does not match maximum vCPU")),
		bootCase("disk: queues", boots(`"disks":[{"path":"disk","num_queues":2}]`), invalid(`Queue count \(2\) must not exceed boot vCPUs \(1\)`)),
		bootCase("disk: queue size", boots(`"disks":[{"path":"disk","queue_size":100}]`), invalid("Queue size must be a power of 2 no greater than 32768: 100")),
		bootCase("disk: serial number", boots(`"disks":[{"path":"disk","serial":"123456789012345678901"}]`), invalid(`Block device serial length \(21\) exceeds maximum allowed length \(20\)`)),
		bootCase("disk: the same name twice", boots(`"disks":[{"path":"disk","id":"d"},{"path":"disk","id":"d"}]`), invalid("Identifier d is not unique")),
		bootCase("disk: a name of its own", boots(`"disks":[{"path":"disk","id":"__d"}]`), invalid("Identifier __d is not invalid")),
		bootCase("disk: PCI segment", boots(`"disks":[{"path":"disk","pci_segment":1}]`), invalid("Invalid PCI segment id: 1")),
		bootCase("vsock: number of the host", boots(`"vsock":{"cid":2,"socket":"v"}`), invalid("2 is a special VSOCK CID")),
		bootCase("vsock: any number", boots(`"vsock":{"cid":4294967295,"socket":"v"}`), invalid("4294967295 is a special VSOCK CID")),
		bootCase("platform: segments", boots(`"platform":{"num_pci_segments":97}`), invalid(`Number of PCI segments \(97\) not in range of 1 to 96`)),
		bootCase("platform: UUID", boots(`"platform":{"uuid":"nonsense"}`), `"Cannot configure system","Platform specific error \(x86_64\)","Error setting up SMBIOS table","Failure to parse uuid: nonsense","[^"]+"`),
		bootCase("landlock rule: no such path", boots(`"landlock_rules":[{"path":"nowhere","access":"r"}]`), invalid(`Path \\"nowhere\\" provided in landlock-rules does not exist`)),
		bootCase("landlock rule: no such access", boots(`"landlock_rules":[{"path":"kernel","access":"x"}]`), invalid("Invalid landlock access: Invalid Landlock access: Invalid access: x")),
		{name: "no processor at all is fine", requests: []request{
			create(boots(`"cpus":{"boot_vcpus":0,"max_vcpus":0}`)), put("vm.boot", 204, ""), put("vmm.shutdown", 200, ""),
		}, events: wholeLife},
	}
}
