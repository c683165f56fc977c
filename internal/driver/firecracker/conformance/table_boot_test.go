package conformance

import (
	"fmt"
	"strings"
)

func machineScenarios() []scenario {
	set := func(name, body, said string) scenario {
		return one("machine: "+name, "PUT", "/machine-config", body, faultOf("Machine config error: "+said))
	}
	const (
		count = `The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled\.`
		size  = `The memory size \(MiB\) is either 0, or not a multiple of the configured page size\.`
	)
	return []scenario{
		set("no processor", `{"vcpu_count":0,"mem_size_mib":128}`, count),
		set("33 processors", `{"vcpu_count":33,"mem_size_mib":128}`, count),
		set("odd with SMT", `{"vcpu_count":3,"mem_size_mib":128,"smt":true}`, count),
		set("no memory", `{"vcpu_count":1,"mem_size_mib":0}`, size),
		set("odd memory in huge pages", `{"vcpu_count":1,"mem_size_mib":129,"huge_pages":"2M"}`, size),
		{name: "machine: what is taken", steps: []step{
			{"PUT", "/machine-config", `{"vcpu_count":32,"mem_size_mib":1}`, 204, ""},
			{"GET", "/machine-config", "", 200, `^\{"vcpu_count":32,"mem_size_mib":1,"smt":false,"track_dirty_pages":false,"huge_pages":"None"\}$`},
			{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":64,"smt":true,"track_dirty_pages":true,"huge_pages":"2M","cpu_template":null}`, 204, ""},
			{"GET", "/machine-config", "", 200, `^\{"vcpu_count":1,"mem_size_mib":64,"smt":true,"track_dirty_pages":true,"huge_pages":"2M"\}$`},
			{"PUT", "/machine-config", `{"vcpu_count":0,"mem_size_mib":64}`, 400, count},
			{"PATCH", "/machine-config", `{"vcpu_count":4}`, 204, ""},
			{"GET", "/machine-config", "", 200, `"vcpu_count":4,"mem_size_mib":64`},
			{"PATCH", "/machine-config", `{"cpu_template":"T2"}`, 204, ""},
			{"GET", "/machine-config", "", 200, `"cpu_template":"T2"`},
			{"PATCH", "/machine-config", `{"nope":1}`, 400, "unknown field `nope`"},
		}},
	}
}

// args is a boot source with a command line of n bytes.
func args(n int, status int, said string) step {
	return step{"PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":"{kernel}","boot_args":"%s"}`, strings.Repeat("x", n)), status, said}
}

// What InstanceStart adds to the command line.
const (
	pciOff    = len(" pci=off")
	oneDevice = len(" virtio_mmio.device=4K@0xc0001000:5")
	rootWords = len(" root=/dev/vda rw")
)

func bootScenarios() []scenario {
	set := func(name, body, said string) scenario {
		return one("boot: "+name, "PUT", "/boot-source", body, said)
	}
	refused := func(name, kernel, said string) scenario {
		return scenario{name: "kernel: " + name, steps: []step{
			{"PUT", "/boot-source", `{"kernel_image_path":"` + kernel + `"}`, 204, ""},
			refusedLaunch(`System configuration error: Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image: Kernel Loader: ` + said),
			{"GET", "/", "", 200, `"Not started"`},
			boot(), launch(),
			{"GET", "/", "", 200, `"Running"`},
		}}
	}
	const invalid = `Boot source error: The kernel command line is invalid: Invalid cmdline capacity provided\.`
	const long = `Invalid kernel command line: Inserting string would make command line too long\.`
	const deviceLong = `Could not attach device: MMIO transport error: Failed to allocate requested resourc: Inserting string would make command line too long\.`
	entropy := step{"PUT", "/entropy", `{}`, 204, ""}
	return []scenario{
		set("no kernel", `{"boot_args":"x"}`, badJSON("missing field `kernel_image_path` at line 1 column 17")),
		set("unknown field", `{"kernel_image_path":"{kernel}","nope":1}`, "unknown field `nope`, expected one of `kernel_image_path`, `initrd_path`, `boot_args`"),
		set("number for a path", `{"kernel_image_path":1}`, badJSON("invalid type: integer `1`, expected a string at line 1 column 22")),
		set("kernel is not there", `{"kernel_image_path":"{dir}/SECRET"}`, faultOf(`Boot source error: The kernel file cannot be opened: No such file or directory \(os error 2\)`)),
		set("initrd is not there", `{"kernel_image_path":"{kernel}","initrd_path":"{dir}/SECRET"}`, faultOf(`Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions\. No such file or directory \(os error 2\)`)),
		refused("text", "{text}", "Invalid Elf magic number"),
		refused("packed", "{bzimage}", "Invalid Elf magic number"),
		refused("short", "{short}", "Unable to read elf header"),
		refused("nothing", "{taken}", "Unable to read elf header"),
		refused("directory", "{dir}", "Unable to read elf header"),
		{name: "boot: no memory for the kernel", steps: []step{
			{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":1}`, 204, ""}, boot(),
			refusedLaunch(`System configuration error: .*Kernel Loader: Unable to read kernel image`),
		}},
		{name: "boot: more memory than can be addressed", steps: []step{
			{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":268435456}`, 204, ""}, boot(),
			refusedLaunch(`Invalid Memory Configuration: .*`),
			{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":8796093022208}`, 204, ""},
			refusedLaunch(`Invalid Memory Configuration: Total sum of memory regions exceeds largest possible file offset`),
		}},
		{name: "boot: no kernel at all", steps: []step{refusedLaunch(`Cannot start microvm without kernel configuration\.`)}},
		{name: "boot: the last one counts", steps: []step{
			{"PUT", "/boot-source", `{"kernel_image_path":"{text}"}`, 204, ""}, boot(),
			{"PUT", "/boot-source", `{"kernel_image_path":"{dir}/nope"}`, 400, "cannot be opened"}, launch(),
		}},
		{name: "initrd: twice", steps: []step{
			{"PUT", "/boot-source", `{"kernel_image_path":"{kernel}","initrd_path":"{initrd}","boot_args":"` + strings.Repeat("x", 2047) + `"}`, 204, ""},
			refusedLaunch(long),
			refusedLaunch(`Error with initrd initialization: Cannot load initrd due to an invalid image: .*\.`),
		}},
		{name: "initrd: larger than memory", steps: []step{
			{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":2}`, 204, ""},
			{"PUT", "/boot-source", `{"kernel_image_path":"{kernel}","initrd_path":"{large}"}`, 204, ""},
			refusedLaunch(`Error with initrd initialization: Failed to compute the initrd address\.\.`),
		}},
		{name: "command line: 2048", steps: []step{args(2047, 204, ""), args(2048, 400, faultOf(invalid))}},
		{name: "command line: as long as possible", steps: []step{args(2047-pciOff+1, 204, ""), refusedLaunch(long), args(2047-pciOff, 204, ""), launch()}},
		{name: "command line: with a device", steps: []step{entropy, args(2047-pciOff-oneDevice+1, 204, ""), refusedLaunch(deviceLong), args(2047-pciOff-oneDevice, 204, ""), launch()}},
		{name: "command line: with two devices", steps: []step{
			{"PUT", "/vsock", `{"guest_cid":3,"uds_path":"{dir}/v"}`, 204, ""}, entropy,
			args(2047-pciOff-2*oneDevice+1, 204, ""), refusedLaunch(deviceLong), args(2047-pciOff-2*oneDevice, 204, ""), launch(),
		}},
		{name: "command line: with a root device", steps: []step{
			{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":true,"path_on_host":"{disk}"}`, 204, ""},
			args(2047-pciOff-oneDevice-rootWords+1, 204, ""), refusedLaunch(deviceLong), args(2047-pciOff-oneDevice-rootWords, 204, ""), launch(),
		}},
		{name: "command line: spaces at its ends", steps: []step{
			{"PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":"{kernel}","boot_args":"  %s -- y  "}`, strings.Repeat("x", 2042)), 204, ""},
			{"PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":"{kernel}","boot_args":"  %s -- y  "}`, strings.Repeat("x", 2043)), 400, faultOf(invalid)},
		}},
		{name: "command line: no letters", steps: []step{
			{"PUT", "/boot-source", `{"kernel_image_path":"{kernel}","boot_args":"a\nb\u00e4"}`, 204, ""}, launch(),
		}},
	}
}

func driveScenarios() []scenario {
	put := func(body string, status int, said string) step {
		return step{"PUT", "/drives/a", body, status, said}
	}
	set := func(name, body, said string) scenario {
		return scenario{name: "drive: " + name, steps: []step{put(body, 400, said)}}
	}
	drive := func(id, rest string, status int, said string) step {
		return step{"PUT", "/drives/" + id, `{"drive_id":"` + id + `","path_on_host":"{disk}",` + rest + `}`, status, said}
	}
	const create = "Drive config error: Unable to create the virtio block device: "
	return []scenario{
		set("other name", `{"drive_id":"b","is_root_device":false,"path_on_host":"{disk}"}`, faultOf(`The id from the path does not match the id from the body!`)),
		set("no name", `{"is_root_device":false}`, badJSON("missing field `drive_id` at line 1 column 24")),
		set("root or not", `{"drive_id":"a","path_on_host":"{disk}"}`, "missing field `is_root_device`"),
		set("unknown field", `{"serial":"x"}`, badJSON("unknown field `serial`, expected one of `drive_id`, `partuuid`, `is_root_device`, `cache_type`, `is_read_only`, `path_on_host`, `rate_limiter`, `io_engine`, `socket` at line 1 column 9")),
		set("engine", `{"drive_id":"a","is_root_device":false,"io_engine":"Threads"}`, "unknown variant `Threads`, expected `Async` or `Sync`"),
		set("cache", `{"drive_id":"a","is_root_device":false,"cache_type":null}`, badJSON("expected value at line 1 column 53")),
		set("limiter", `{"drive_id":"a","is_root_device":false,"rate_limiter":{"nope":1}}`, "unknown field `nope`, expected `bandwidth` or `ops`"),
		set("bucket", `{"drive_id":"a","is_root_device":false,"rate_limiter":{"ops":{"size":1}}}`, "missing field `refill_time` at line 1 column 71"),
		set("no file", `{"drive_id":"a","is_root_device":false}`, faultOf(create+`Invalid block config\.`)),
		set("file and socket", `{"drive_id":"a","is_root_device":false,"path_on_host":"{disk}","socket":"x"}`, faultOf(create+`Invalid block config\.`)),
		set("file is not there", `{"drive_id":"a","is_root_device":false,"path_on_host":"{dir}/SECRET"}`, faultOf(create+`Virtio backend error: Error manipulating the backing file: No such file or directory \(os error 2\) .*/SECRET`)),
		set("directory", `{"drive_id":"a","is_root_device":false,"path_on_host":"{dir}"}`, create+`Virtio backend error: Error manipulating the backing file: Is a directory \(os error 21\) `),
		{name: "drive: two roots", steps: []step{
			drive("a", `"is_root_device":true`, 204, ""),
			drive("b", `"is_root_device":true`, 400, faultOf(`Drive config error: A root block device already exists!`)),
			drive("a", `"is_root_device":true,"is_read_only":true`, 204, ""),
			drive("c", `"is_root_device":false`, 204, ""),
			boot(), launch(),
		}},
		{name: "drive: becomes the root", steps: []step{
			drive("a", `"is_root_device":false,"io_engine":"Sync","cache_type":"Writeback"`, 204, ""),
			drive("b", `"is_root_device":false,"rate_limiter":{"ops":{"size":1,"refill_time":100,"nope":1}}`, 204, ""),
			drive("b", `"is_root_device":true`, 204, ""),
			{"GET", "/vm/config", "", 200, `"drives":\[\{"drive_id":"b","partuuid":null,"is_root_device":true,"cache_type":"Unsafe","is_read_only":false,"path_on_host":"[^"]*/disk","rate_limiter":null,"io_engine":"Sync","socket":null\},\{"drive_id":"a","partuuid":null,"is_root_device":false,"cache_type":"Writeback",`},
			boot(), launch(),
			{"GET", "/vm/config", "", 200, `"is_root_device":true`},
			drive("d", `"is_root_device":false`, 400, faultOf("PCI is not enabled")),
		}},
		{name: "drive: the same file twice", steps: []step{drive("a", `"is_root_device":false`, 204, ""), drive("b", `"is_root_device":false`, 204, ""), boot(), launch()}},
		{name: "drive: not a whole sector", steps: []step{
			put(`{"drive_id":"a","is_root_device":false,"path_on_host":"{initrd}"}`, 204, ""), boot(), launch(),
		}},
		{name: "drive: as many as there are interrupts", steps: append(manyDrives(17), boot(), launch())},
		{name: "drive: one too many", steps: append(manyDrives(18), boot(), refusedLaunch("Could not attach device: .*"))},
	}
}

func manyDrives(n int) (steps []step) {
	for i := range n {
		steps = append(steps, step{"PUT", fmt.Sprintf("/drives/d%d", i), fmt.Sprintf(`{"drive_id":"d%d","is_root_device":false,"path_on_host":"{disk}"}`, i), 204, ""})
	}
	return steps
}

func deviceScenarios() []scenario {
	vsock := func(body string, status int, said string) step {
		return step{"PUT", "/vsock", body, status, said}
	}
	const bind = "Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: "
	return []scenario{
		one("vsock: no path", "PUT", "/vsock", `{"guest_cid":3}`, badJSON("missing field `uds_path` at line 1 column 15")),
		one("vsock: unknown field", "PUT", "/vsock", `{"nope":3}`, badJSON("unknown field `nope`, expected one of `vsock_id`, `guest_cid`, `uds_path` at line 1 column 7")),
		one("vsock: number", "PUT", "/vsock", `{"guest_cid":4294967296,"uds_path":"x"}`, badJSON("invalid value: integer `4294967296`, expected u32 at line 1 column 23")),
		one("vsock: path is taken", "PUT", "/vsock", `{"guest_cid":3,"uds_path":"{taken}"}`, faultOf(bind+`Address .*in use \(os error 98\)`)),
		one("vsock: no directory", "PUT", "/vsock", `{"guest_cid":3,"uds_path":"{dir}/no/where"}`, faultOf(bind+`No such file or directory \(os error 2\)`)),
		one("vsock: long path", "PUT", "/vsock", `{"guest_cid":3,"uds_path":"`+strings.Repeat("/x", 54)+`"}`, faultOf(bind+`path must be shorter than SUN_LEN`)),
		{name: "vsock: any number", steps: []step{vsock(`{"guest_cid":0,"uds_path":"{dir}/v"}`, 204, ""), vsock(`{"guest_cid":2,"uds_path":"{dir}/v"}`, 204, ""), vsock(`{"guest_cid":4294967295,"uds_path":"{dir}/w"}`, 204, ""),
			{"GET", "/vm/config", "", 200, `"vsock":\{"guest_cid":4294967295,"uds_path":"[^"]*/w"\}`}, boot(), launch()}},
		{name: "vsock: lost", steps: []step{
			vsock(`{"guest_cid":3,"uds_path":"{dir}/v"}`, 204, ""), vsock(`{"guest_cid":3,"uds_path":"{taken}"}`, 400, bind),
			{"GET", "/vm/config", "", 200, `"vsock":null`},
		}},
		one("entropy: unknown field", "PUT", "/entropy", `{"nope":1}`, badJSON("unknown field `nope`, expected `rate_limiter` at line 1 column 7")),
		{name: "entropy", steps: []step{
			{"PUT", "/entropy", `{}`, 204, ""}, {"PUT", "/entropy", `{"rate_limiter":null}`, 204, ""},
			{"GET", "/vm/config", "", 200, `"entropy":\{"rate_limiter":null\}`}, boot(), launch(),
			{"GET", "/vm/config", "", 200, `"entropy":\{"rate_limiter":null\}`},
		}},
		one("serial: unknown field", "PUT", "/serial", `{"nope":1}`, "unknown field `nope`, expected `serial_out_path` or `rate_limiter`"),
		one("serial: number", "PUT", "/serial", `{"serial_out_path":1}`, badJSON("invalid type: integer `1`, expected path string at line 1 column 20")),
		{name: "serial: looked at when it starts", steps: []step{
			{"PUT", "/serial", `{"serial_out_path":"{dir}/no/where"}`, 204, ""}, boot(),
			refusedLaunch(`Failed to create device manager: Error with EventFd: No such file or directory \(os error 2\)`),
			{"PUT", "/serial", `{"serial_out_path":"{dir}/console"}`, 204, ""}, launch(),
		}},
		one("logger: level", "PUT", "/logger", `{"level":"loud"}`, badJSON("Invalid LevelFilter at line 1 column 16")),
		one("logger: unknown field", "PUT", "/logger", `{"nope":1}`, "unknown field `nope`, expected one of `log_path`, `level`, `show_level`, `show_log_origin`, `module`"),
		one("logger: file", "PUT", "/logger", `{"log_path":"/no/where"}`, faultOf(`Logger error: Failed to open target file: No such file or directory \(os error 2\)`)),
		one("metrics: file", "PUT", "/metrics", `{"metrics_path":"/no/where","nope":1}`, faultOf(`Metrics error: Cannot initialize the metrics system due to bad user input: No such file or directory \(os error 2\)`)),
		one("action: unknown", "PUT", "/actions", `{"action_type":"SECRET"}`, badJSON("unknown variant `SECRET`, expected one of `FlushMetrics`, `InstanceStart`, `SendCtrlAltDel` at line 1 column 23")),
		one("action: case", "PUT", "/actions", `{"action_type":"instancestart"}`, "unknown variant `instancestart`"),
		one("action: unknown field", "PUT", "/actions", `{"action_type":"InstanceStart","payload":"x"}`, badJSON("unknown field `payload`, expected `action_type` at line 1 column 40")),
	}
}

func orderScenarios() []scenario {
	before, after := faultOf(`The requested operation is not supported before starting the microVM\.`), faultOf(`The requested operation is not supported after starting the microVM\.`)
	keys := func(status int, said string) step {
		return step{"PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`, status, said}
	}
	flush := step{"PUT", "/actions", `{"action_type":"FlushMetrics"}`, 204, ""}
	flushBefore := flush
	flushBefore.status, flushBefore.said = 400, before
	late := func(path, body string) step { return step{"PUT", path, body, 400, after} }
	again := launch()
	again.status, again.said = 400, after
	return []scenario{
		{name: "order: before the start", steps: []step{keys(400, before), flushBefore}},
		{name: "order: after the start", steps: running(
			again, flush,
			late("/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`), late("/boot-source", `{"kernel_image_path":"{kernel}"}`),
			late("/boot-source", `{"kernel_image_path":"{dir}/nope"}`),
			late("/vsock", `{"guest_cid":3,"uds_path":"{dir}/v"}`), late("/entropy", `{}`), late("/serial", `{}`), late("/logger", `{}`), late("/metrics", `{"metrics_path":"x"}`),
			step{"PATCH", "/machine-config", `{"vcpu_count":2}`, 400, after},
			step{"PUT", "/vsock", `{"nope":3}`, 400, "unknown field"},
			step{"GET", "/", "", 200, `^\{"id":"anonymous-instance","state":"Running","vmm_version":"1\.16\.1","app_name":"Firecracker"\}$`},
			step{"GET", "/version", "", 200, "1.16.1"}, step{"GET", "/machine-config", "", 200, `"mem_size_mib":128`},
			step{"GET", "/vm/config", "", 200, `"boot-source":\{"kernel_image_path":"[^"]*/kernel","initrd_path":null,"boot_args":"console=ttyS0"\}`},
		)},
		{name: "order: nobody reads the keyboard", steps: []step{
			{"PUT", "/boot-source", `{"kernel_image_path":"{kernel}","boot_args":"fake.guest=no-keyboard"}`, 204, ""}, launch(),
			keys(204, ""), keys(204, ""), keys(204, ""), keys(204, ""),
			keys(400, faultOf(`Internal VMM error: I8042 error: i8042 internal buffer full\.`)),
		}},
		{name: "order: devices in any order", steps: []step{
			{"PUT", "/entropy", `{}`, 204, ""}, {"PUT", "/vsock", `{"guest_cid":3,"uds_path":"{dir}/v"}`, 204, ""},
			{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"{disk}"}`, 204, ""},
			{"PUT", "/boot-source", `{"kernel_image_path":"{kernel}","initrd_path":"{initrd}"}`, 204, ""},
			{"PUT", "/machine-config", `{"vcpu_count":2,"mem_size_mib":256}`, 204, ""}, launch(),
		}},
		{name: "order: what the stand-in does not play", fakeOnly: "the real program has it", steps: []step{
			{"PUT", "/mmds", `{}`, 501, "stand-in"},
			{"PATCH", "/vm", `{"state":"Paused"}`, 501, "stand-in"},
		}},
	}
}
