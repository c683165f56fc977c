package fake

import "encoding/json"

// vmConfig is the configuration of a VM as vmm/src/vm_config.rs has it in a build
// with the default features, io_uring and kvm: 28 fields, in this order.
func vmConfig() structure {
	return structure{name: "VmConfig", bare: true, fields: []field{
		def("cpus", cpusConfig(), []member{number("boot_vcpus", "1"), number("max_vcpus", "1")}),
		def("memory", memoryConfig(), []member{number("size", "536870912")}),
		opt("payload", payloadConfig()),
		opt("rate_limit_groups", list{rateLimiterGroupConfig()}),
		opt("disks", list{diskConfig()}),
		opt("net", list{netConfig()}),
		def("rng", rngConfig(), []member{word("src", "/dev/urandom")}),
		opt("balloon", pciDevice("BalloonConfig", req("size", u64()), no("deflate_on_oom"), no("free_page_reporting"))),
		opt("generic_vhost_user", list{pciDevice("GenericVhostUserConfig", req("socket", path()), req("queue_sizes", list{u16()}), req("device_type", u32()))}),
		opt("fs", list{pciDevice("FsConfig", req("tag", text()), req("socket", path()), def("num_queues", usize(), json.Number("1")), def("queue_size", u16(), json.Number("1024")))}),
		opt("pmem", list{pciDevice("PmemConfig", req("file", path()), opt("size", u64()), no("discard_writes"))}),
		def("serial", serialConfig(), []member{word("mode", "Null")}),
		def("console", consoleConfig(), []member{word("mode", "Tty")}),
		def("debug_console", debugConsoleConfig(), []member{word("mode", "Off"), number("iobase", "233")}),
		opt("devices", list{pciDevice("DeviceConfig", opt("path", path()), opt("fd", i32()), opt("x_nv_gpudirect_clique", u8()), def("x_exclude_mmap_bars", list{u64()}, []any{}))}),
		opt("user_devices", list{pciDevice("UserDeviceConfig", req("socket", path()))}),
		opt("vdpa", list{pciDevice("VdpaConfig", req("path", path()), def("num_queues", usize(), json.Number("1")))}),
		opt("vsock", pciDevice("VsockConfig", req("cid", u32()), req("socket", path()))),
		no("pvpanic"),
		no("iommu"),
		opt("numa", list{numaConfig()}),
		no("watchdog"),
		opt("rtc", pciDevice("RtcConfig")),
		opt("pci_segments", list{structure{name: "PciSegmentConfig", fields: []field{
			def("pci_segment", u16(), json.Number("0")), def("mmio32_aperture_weight", u32(), json.Number("1")), def("mmio64_aperture_weight", u32(), json.Number("1")),
		}}}),
		opt("platform", platformConfig()),
		opt("tpm", structure{name: "TpmConfig", fields: []field{req("socket", path())}}),
		no("landlock_enable"),
		opt("landlock_rules", list{structure{name: "LandlockConfig", fields: []field{req("path", path()), req("access", text())}}}),
	}}
}

func req(name string, s shape) field { return field{name: name, shape: s, presence: required} }
func opt(name string, s shape) field { return field{name: name, shape: s, presence: optional} }

func def(name string, s shape, value any) field {
	return field{name: name, shape: s, presence: defaulted, value: value}
}

// no is a boolean that is false unless it is given.
func no(name string) field { return def(name, boolean(), false) }

func yes(name string) field { return def(name, boolean(), true) }

func number(key, value string) member { return member{key: key, node: node{value: json.Number(value)}} }
func word(key, value string) member   { return member{key: key, node: node{value: value}} }

func cpusConfig() structure {
	return structure{name: "CpusConfig", fields: []field{
		req("boot_vcpus", u32()),
		req("max_vcpus", u32()),
		opt("topology", structure{name: "CpuTopology", fields: []field{
			req("threads_per_core", u16()), req("cores_per_die", u16()), req("dies_per_package", u16()), req("packages", u16()),
		}}),
		no("kvm_hyperv"),
		def("max_phys_bits", u8(), json.Number("46")),
		opt("affinity", list{structure{name: "CpuAffinity", fields: []field{req("vcpu", u32()), req("host_cpus", list{usize()})}}}),
		def("features", structure{name: "CpuFeatures", fields: []field{no("amx")}}, []member{}),
		yes("nested"),
		def("core_scheduling", enum("Vm", "Vcpu", "Off"), "Vm"),
		def("profile", enum("Host"), "Host"),
	}}
}

func memoryConfig() structure {
	return structure{name: "MemoryConfig", fields: []field{
		req("size", u64()),
		no("mergeable"),
		def("hotplug_method", enum("Acpi", "VirtioMem"), "Acpi"),
		opt("hotplug_size", u64()),
		opt("hotplugged_size", u64()),
		no("shared"),
		no("hugepages"),
		opt("hugepage_size", u64()),
		no("prefault"),
		no("reserve"),
		opt("zones", list{structure{name: "MemoryZoneConfig", fields: []field{
			req("id", text()), req("size", u64()), opt("file", path()), no("shared"), no("hugepages"), opt("hugepage_size", u64()),
			opt("host_numa_node", u32()), opt("hotplug_size", u64()), opt("hotplugged_size", u64()), no("prefault"), no("reserve"), no("mergeable"),
		}}}),
		yes("thp"),
	}}
}

func payloadConfig() structure {
	return structure{name: "PayloadConfig", fields: []field{
		opt("firmware", path()), opt("kernel", path()), opt("cmdline", text()), opt("initramfs", path()),
	}}
}

func rateLimiterConfig() structure {
	bucket := structure{name: "TokenBucketConfig", fields: []field{req("size", u64()), opt("one_time_burst", u64()), req("refill_time", u64())}}
	return structure{name: "RateLimiterConfig", strict: true, fields: []field{opt("bandwidth", bucket), opt("ops", bucket)}}
}

func rateLimiterGroupConfig() structure {
	return structure{name: "RateLimiterGroupConfig", fields: []field{def("id", text(), ""), def("rate_limiter_config", rateLimiterConfig(), []member{})}}
}

// pciDevice is a device on the PCI bus: what all have in common stands first.
func pciDevice(name string, fields ...field) structure {
	return structure{name: name, flat: true, fields: append(pciCommon(), fields...)}
}

func pciCommon() []field {
	iommu := no("iommu")
	iommu.hidden = false
	fields := []field{opt("id", text()), iommu, def("pci_segment", u16(), json.Number("0")), opt("pci_device_id", u8())}
	for i := range fields {
		fields[i].flattened = true
	}
	return fields
}

func diskConfig() structure {
	return pciDevice("DiskConfig",
		opt("path", path()),
		no("readonly"),
		no("direct"),
		def("num_queues", usize(), json.Number("1")),
		def("queue_size", u16(), json.Number("128")),
		no("vhost_user"),
		opt("vhost_socket", text()),
		opt("rate_limit_group", text()),
		opt("rate_limiter_config", rateLimiterConfig()),
		no("disable_io_uring"),
		no("disable_aio"),
		opt("serial", text()),
		opt("queue_affinity", list{structure{name: "VirtQueueAffinity", fields: []field{req("queue_index", u16()), req("host_cpus", list{usize()})}}}),
		no("backing_files"),
		yes("sparse"),
		def("image_type", enum("FixedVhd", "Qcow2", "Raw", "Vhdx", "Unknown"), "Unknown"),
		def("lock_granularity", enum("ByteRange", "Full"), "ByteRange"),
	)
}

func netConfig() structure {
	return pciDevice("NetConfig",
		opt("tap", text()), opt("ip", address()), opt("mask", address()), def("mac", mac(), "12:34:56:78:90:ab"), opt("host_mac", mac()), opt("mtu", u16()),
		def("num_queues", usize(), json.Number("2")), def("queue_size", u16(), json.Number("256")),
		no("vhost_user"), opt("vhost_socket", text()), def("vhost_mode", enum("Client", "Server"), "Client"),
		opt("fds", list{i32()}), opt("rate_limiter_config", rateLimiterConfig()),
		yes("offload_tso"), yes("offload_ufo"), yes("offload_csum"),
	)
}

func rngConfig() structure { return pciDevice("RngConfig", req("src", path())) }

func mode() scalar { return enum("Off", "Pty", "Tty", "File", "Socket", "Null") }

func commonConsole() []field {
	fields := []field{opt("file", path()), req("mode", mode()), opt("socket", path())}
	for i := range fields {
		fields[i].flattened = true
	}
	return fields
}

func serialConfig() structure {
	return structure{name: "SerialConfig", flat: true, fields: commonConsole()}
}

func consoleConfig() structure {
	return structure{name: "ConsoleConfig", flat: true, fields: append(commonConsole(), pciCommon()...)}
}

func debugConsoleConfig() structure {
	return structure{name: "DebugConsoleConfig", fields: []field{opt("file", path()), req("mode", mode()), opt("iobase", u16())}}
}

func numaConfig() structure {
	distance := structure{name: "NumaDistance", fields: []field{def("destination", u32(), json.Number("0")), def("distance", u8(), json.Number("0"))}}
	return structure{name: "NumaConfig", fields: []field{
		req("guest_numa_id", u32()), opt("cpus", list{u32()}), opt("distances", list{distance}), opt("memory_zones", list{text()}), opt("pci_segments", list{u16()}), opt("device_id", text()),
	}}
}

func platformConfig() structure {
	serial, uuid := opt("system_serial_number", text()), opt("system_uuid", text())
	serial.alias, uuid.alias = "serial_number", "uuid"
	return structure{name: "PlatformConfig", fields: []field{
		def("num_pci_segments", u16(), json.Number("1")),
		opt("iommu_segments", list{u16()}),
		def("iommu_address_width_bits", u8(), json.Number("64")),
		serial, uuid,
		opt("oem_strings", list{text()}),
		opt("system_manufacturer", text()),
		opt("system_product_name", text()),
		opt("system_version", text()),
		opt("system_family", text()),
		opt("system_sku_number", text()),
		opt("chassis_asset_tag", text()),
		no("iommufd"),
		opt("iommufd_fd", i32()),
		yes("vfio_p2p_dma"),
	}}
}
