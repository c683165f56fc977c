package fake

// The bodies, by vmm_config/*.rs and logger/logging.rs.

func machineSchema() *schema {
	return &schema{name: "MachineConfig", fields: []field{
		{name: "vcpu_count", kind: kindU8},
		{name: "mem_size_mib", kind: kindUsize},
		{name: "smt", kind: kindBool, fallback: false},
		{name: "cpu_template", kind: kindEnum, optional: true, variants: templates()},
		{name: "track_dirty_pages", kind: kindBool, fallback: false},
		{name: "huge_pages", kind: kindEnum, fallback: "None", variants: []string{"None", "2M"}},
	}}
}

// machineUpdateSchema is the same with nothing required.
func machineUpdateSchema() *schema {
	s := machineSchema()
	s.name = "MachineConfigUpdate"
	for i := range s.fields {
		s.fields[i].optional, s.fields[i].fallback = true, nil
	}
	return s
}

func templates() []string { return []string{"C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None"} }

func bootSchema() *schema {
	return &schema{name: "BootSourceConfig", fields: []field{
		{name: "kernel_image_path", kind: kindString},
		{name: "initrd_path", kind: kindString, optional: true},
		{name: "boot_args", kind: kindString, optional: true},
	}}
}

func driveSchema() *schema {
	return &schema{name: "BlockDeviceConfig", fields: []field{
		{name: "drive_id", kind: kindString},
		{name: "partuuid", kind: kindString, optional: true},
		{name: "is_root_device", kind: kindBool},
		{name: "cache_type", kind: kindEnum, fallback: "Unsafe", variants: []string{"Unsafe", "Writeback"}},
		{name: "is_read_only", kind: kindBool, optional: true},
		{name: "path_on_host", kind: kindString, optional: true},
		{name: "rate_limiter", kind: kindStruct, optional: true, of: limiterSchema()},
		{name: "io_engine", kind: kindEnum, optional: true, variants: []string{"Async", "Sync"}},
		{name: "socket", kind: kindString, optional: true},
	}}
}

func limiterSchema() *schema {
	return &schema{name: "RateLimiterConfig", fields: []field{
		{name: "bandwidth", kind: kindStruct, optional: true, of: bucketSchema()},
		{name: "ops", kind: kindStruct, optional: true, of: bucketSchema()},
	}}
}

func bucketSchema() *schema {
	return &schema{name: "TokenBucketConfig", open: true, fields: []field{
		{name: "size", kind: kindU64},
		{name: "one_time_burst", kind: kindU64, optional: true},
		{name: "refill_time", kind: kindU64},
	}}
}

func networkSchema() *schema {
	return &schema{name: "NetworkInterfaceConfig", fields: []field{
		{name: "iface_id", kind: kindString},
		{name: "host_dev_name", kind: kindString},
		{name: "guest_mac", kind: kindMAC, optional: true},
		{name: "mtu", kind: kindU16, optional: true},
		{name: "rx_rate_limiter", kind: kindStruct, optional: true, of: limiterSchema()},
		{name: "tx_rate_limiter", kind: kindStruct, optional: true, of: limiterSchema()},
	}}
}

func balloonSchema() *schema {
	return &schema{name: "BalloonDeviceConfig", fields: []field{
		{name: "amount_mib", kind: kindU32},
		{name: "deflate_on_oom", kind: kindBool},
		{name: "stats_polling_interval_s", kind: kindU16, fallback: uint64(0)},
		{name: "free_page_hinting", kind: kindBool, fallback: false},
		{name: "free_page_reporting", kind: kindBool, fallback: false},
	}}
}

func balloonUpdateSchema() *schema {
	return &schema{name: "BalloonUpdateConfig", fields: []field{{name: "amount_mib", kind: kindU32}}}
}

func statisticsSchema() *schema {
	return &schema{name: "BalloonUpdateStatsConfig", fields: []field{{name: "stats_polling_interval_s", kind: kindU16}}}
}

func hotplugSchema() *schema {
	return &schema{name: "MemoryHotplugConfig", fields: []field{
		{name: "total_size_mib", kind: kindUsize},
		{name: "block_size_mib", kind: kindUsize, fallback: uint64(smallestBlock)},
		{name: "slot_size_mib", kind: kindUsize, fallback: uint64(smallestSlot)},
	}}
}

func hotplugUpdateSchema() *schema {
	return &schema{name: "MemoryHotplugSizeUpdate", fields: []field{{name: "requested_size_mib", kind: kindUsize}}}
}

func vsockSchema() *schema {
	return &schema{name: "VsockDeviceConfig", fields: []field{
		{name: "vsock_id", kind: kindString, optional: true},
		{name: "guest_cid", kind: kindU32},
		{name: "uds_path", kind: kindString},
	}}
}

func entropySchema() *schema {
	return &schema{name: "EntropyDeviceConfig", fields: []field{
		{name: "rate_limiter", kind: kindStruct, optional: true, of: limiterSchema()},
	}}
}

func serialSchema() *schema {
	return &schema{name: "SerialConfig", fields: []field{
		{name: "serial_out_path", kind: kindPath, optional: true},
		{name: "rate_limiter", kind: kindStruct, optional: true, of: bucketSchema()},
	}}
}

func metricsSchema() *schema {
	return &schema{name: "MetricsConfig", open: true, fields: []field{{name: "metrics_path", kind: kindPath}}}
}

func loggerSchema() *schema {
	return &schema{name: "LoggerConfig", fields: []field{
		{name: "log_path", kind: kindPath, optional: true},
		{name: "level", kind: kindLevel, optional: true},
		{name: "show_level", kind: kindBool, optional: true},
		{name: "show_log_origin", kind: kindBool, optional: true},
		{name: "module", kind: kindString, optional: true},
	}}
}

func actionSchema() *schema {
	return &schema{name: "ActionBody", fields: []field{
		{name: "action_type", kind: kindEnum, variants: []string{"FlushMetrics", "InstanceStart", "SendCtrlAltDel"}},
	}}
}
