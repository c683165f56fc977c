package conformance

import "fmt"

const mib = 1 << 20

// resize is a request for memory, or for what is in the balloon.
func resize(body string, status int, says string) request {
	return request{"PUT", "vm.resize", body, status, says}
}

func ram(size int) string { return fmt.Sprintf(`{"desired_ram":%d}`, size) }

func memoryOf(more string) string {
	return fmt.Sprintf(`"memory":{"size":%d,%s}`, 64*mib, more)
}

// resizeCases are about memory that comes and goes: vmm/src/memory_manager.rs,
// virtio-devices/src/mem.rs, balloon.rs, vmm/src/vm.rs.
func resizeCases() []scenario {
	end := put("vmm.shutdown", 200, "")
	refused := func(words string) string {
		return `^\["Error from API","The VM could not be resized",` + words + `\]$`
	}
	manager := func(words string) string { return refused(`"Memory manager error","` + words + `"`) }
	virtio := func(words string) string {
		return `^\["Error from API","The VM could not be resized","Memory manager error","Failed to virtio-mem resize","Resize invalid argument",` +
			`"Failed to update virtio configuration: ResizeError\(` + words
	}
	tooMuch := manager("Not enough space in the hotplug RAM region")
	odd := manager("The requested hotplug memory addition is not a valid size")
	boot := put("vm.boot", 204, "")
	resized := "vm:resizing vm:resized "
	tail := "vm:shutdown vm:deleted vmm:shutdown"
	return []scenario{
		{name: "resize: bodies", requests: []request{
			resize(ram(1), 404, refused(`"VM is not created"`)), resize("{}", 404, refused(`"VM is not created"`)), resize("", 400, badly),
			resize(`{"desired_ram":"x"}`, 400, `^\["Failed to deserialize JSON","invalid type: string \\"x\\", expected u64 at line 1 column 18"\]$`),
			resize("[]", 400, `^\["Failed to deserialize JSON","invalid length 0, expected struct VmResizeData with 3 elements at line 1 column 2"\]$`),
			resize(`{"bogus":1}`, 404, refused(`"VM is not created"`)), end,
		}, events: "vmm:shutdown"},
		{name: "resize: created", requests: []request{
			create(boots(`"balloon":{"size":0}`)), resize(`{"desired_ram":134217728,"desired_vcpus":1,"desired_balloon":4096}`, 204, ""),
			get("vm.info", 200, `"memory":\{"size":134217728,.*"balloon":\{"pci_segment":0,"size":4096,.*"memory_actual_size":134217728\}$`), end,
		}, events: "vm:deleted vmm:shutdown"},
		{name: "resize: no room", requests: []request{
			create(boots()), boot, resize(ram(192*mib), 500, tooMuch), resize(ram(128*mib), 500, odd), resize(ram(32*mib), 204, ""), resize("{}", 204, ""),
			resize(`{"desired_balloon":4096}`, 500, refused(`"Error from device manager","Missing virtio-balloon, can't proceed as expected"`)),
			resize(`{"desired_vcpus":2}`, 500, refused(`"Error from CPU manager","Requested vCPUs exceed maximum"`)),
			resize(`{"desired_vcpus":0}`, 500, refused(`"Error from CPU manager","Requested zero vCPUs"`)),
			get("vm.info", 200, `"memory":\{"size":33554432,.*"memory_actual_size":33554432,`), end,
		}, events: "vm:booting vm:booted vm:resizing vm:resizing " + resized + resized + "vm:resizing vm:resizing vm:resizing " + tail},
		{name: "resize: ACPI", requests: []request{
			create(boots(memoryOf(`"hotplug_size":536870912`))), boot, resize(ram(192*mib), 204, ""), resize(ram(193*mib), 500, odd), resize(ram(1024*mib), 500, odd),
			resize(ram(192*mib), 204, ""), resize(ram(1088*mib), 500, tooMuch),
			get("vm.info", 200, `"memory":\{"size":201326592,.*"memory_actual_size":201326592,`), put("vm.reboot", 204, ""), get("vm.info", 200, `"memory":\{"size":201326592,`), end,
		}, events: "vm:booting vm:booted " + resized + "vm:resizing vm:resizing " + resized + "vm:resizing vm:rebooting vm:rebooted " + tail},
		{name: "resize: virtio-mem", requests: []request{
			create(boots(memoryOf(`"hotplug_method":"VirtioMem","hotplug_size":134217728`))), boot,
			resize(ram(64*mib), 500, virtio("new size 0x0 and requested_size are identical")), resize(ram(128*mib), 204, ""),
			resize(ram(128*mib), 500, virtio("new size 0x4000000 and requested_size are identical")),
			resize(ram(32*mib), 500, manager("Invalid resize request: desired_size = 33554432 below boot size = 67108864")),
			resize(ram(129*mib), 500, virtio("new size 0x4100000 is not aligned on block_size 0x200000")),
			resize(ram(1024*mib), 500, virtio("new size 0x3c000000 is bigger than region_size 0x8000000")),
			get("vm.info", 200, `"hotplugged_size":67108864,.*"memory_actual_size":67108864,`),
			put("vm.reboot", 204, ""), resize(ram(128*mib), 500, virtio("new size 0x4000000 and")), resize(ram(64*mib), 204, ""), end,
		}, loose: true, events: "vm:booting vm:booted vm:resizing " + resized + "vm:resizing vm:resizing vm:resizing vm:resizing vm:rebooting vm:rebooted vm:resizing " + resized + tail},
		{name: "resize: virtio-mem that is not there", requests: []request{
			create(boots(memoryOf(`"hotplug_method":"VirtioMem"`))), boot, resize(ram(128*mib), 500, manager("No virtio-mem resizing handler found")), end,
		}, events: "vm:booting vm:booted vm:resizing " + tail},
		{name: "resize: balloon", requests: []request{
			create(boots(`"balloon":{"size":0,"deflate_on_oom":true,"free_page_reporting":true}`)), boot, resize(`{"desired_balloon":16777216}`, 204, ""),
			resize(`{"desired_balloon":1073741824}`, 204, ""), resize(`{"desired_balloon":5}`, 204, ""),
			get("vm.info", 200, `"balloon":\{"pci_segment":0,"size":5,"deflate_on_oom":true,"free_page_reporting":true\}.*"memory_actual_size":67108864,`), end,
		}, events: "vm:booting vm:booted " + resized + resized + resized + tail},
		{name: "memory that others can map, with a watchdog", requests: []request{
			create(boots(memoryOf(`"shared":true`), `"watchdog":true`)), boot, get("vm.info", 200, `"shared":true.*"__watchdog"`), end,
		}, events: wholeLife},
		{name: "topology", requests: []request{
			create(boots(`"cpus":{"boot_vcpus":4,"max_vcpus":4,"core_scheduling":"Off","topology":{"threads_per_core":2,"cores_per_die":2,"dies_per_package":1,"packages":1}}`)),
			boot, get("vm.info", 200, `"topology":\{"threads_per_core":2,"cores_per_die":2,"dies_per_package":1,"packages":1\}`), end,
		}, events: wholeLife},
	}
}

// memoryCases are those that do not boot.
func memoryCases() []scenario {
	manager := func(words string) string { return `"Memory manager error","` + words + `"` }
	invalid := func(words string) string { return `"Failed to validate config","` + words + `"` }
	unaligned := `"Error from device manager","Cannot create virtio-mem device","Virtio-mem size is not aligned with 134217728"`
	return []scenario{
		bootCase("memory: virtio-mem of an odd size", boots(memoryOf(`"hotplug_method":"VirtioMem","hotplug_size":6291456`)), unaligned),
		bootCase("memory: nothing to plug", boots(memoryOf(`"hotplug_method":"VirtioMem","hotplug_size":0`)), manager("Invalid size for resizing. Can be anything except 0")),
		bootCase("memory: plugged by ACPI from the start", boots(memoryOf(`"hotplug_size":134217728,"hotplugged_size":67108864`)), manager("Memory configuration is not valid")),
		bootCase("memory: not whole huge pages", boots(`"memory":{"size":68157440,"hugepages":true,"hugepage_size":2097152}`),
			manager("Memory size is misaligned with default page size or its hugepage size")),
		bootCase("memory: huge pages of no size", boots(memoryOf(`"hugepages":true,"hugepage_size":4194304`)), `"Memory manager error","Failed to create shared file","No such device \(os error 19\)"`),
		bootCase("balloon: all of the memory", boots(`"balloon":{"size":67108864}`), invalid(`Balloon size \(67108864\) greater than RAM \(67108864\)`)),
		bootCase("processors: three threads", boots(`"cpus":{"boot_vcpus":3,"max_vcpus":3,"topology":{"threads_per_core":3,"cores_per_die":1,"dies_per_package":1,"packages":1}}`),
			invalid("CPU topology supports at most 2 threads per core")),
		bootCase("share: memory of its own", boots(`"fs":[{"tag":"t","socket":"s"}]`), invalid("Using vhost-user requires using shared memory or huge pages")),
		bootCase("device: twice", boots(`"devices":[{"path":"/sys/x"},{"path":"/sys/x"}]`), invalid("Duplicated device path: /sys/x")),
		bootCase("device: nothing", boots(`"devices":[{}]`), invalid("VFIO device config must specify `path=` or `fd=`")),
		bootCase("device: a number of a descriptor", boots(`"devices":[{"fd":5}]`), invalid("VFIO device config must specify `path=` or `fd=`")),
		bootCase("device: BAR", boots(`"devices":[{"path":"/sys/x","x_exclude_mmap_bars":[6]}]`), invalid("Invalid VFIO excluded-mmap BAR index: 6")),
		bootCase("disk: said to be VHD", boots(`"disks":[{"path":"disk","image_type":"FixedVhd"}]`), `"Error from device manager","Disk image type does not match expected type: specified = vhd, detected = raw"`),
		bootCase("disk: said to be raw", boots(`"disks":[{"path":"vhd","image_type":"Raw"}]`), `"Error from device manager","Disk image type does not match expected type: specified = raw, detected = vhd"`),
	}
}

// formatCases are disks that boot.
func formatCases() []scenario {
	return []scenario{
		{name: "disks: direct, and a fixed VHD", requests: []request{
			create(boots(`"disks":[{"path":"disk","image_type":"Raw","direct":true,"serial":"one"},{"path":"vhd","image_type":"FixedVhd","readonly":true}]`)),
			put("vm.boot", 204, ""), get("vm.info", 200, `"direct":true.*"serial":"one".*"image_type":"FixedVhd"`), put("vmm.shutdown", 200, ""),
		}, events: wholeLife},
	}
}
