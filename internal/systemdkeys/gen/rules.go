package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/systemdkeys"
)

// reach is when a change of a key reaches a service that is running.
type reach int

const (
	// whenNeeded: systemd consults the key at an event that is yet to come.
	whenNeeded reach = iota
	// onReload: daemon-reload writes the cgroup of the running service again.
	onReload
	// atStart: not, or not wholly, before the service is started again.
	atStart
)

// judgement gives one reach to several keys of a group, for one reason.
type judgement struct {
	why   string
	reach reach
	keys  string // separated by white space
}

// usual is the reach of a key that no judgement names. The two groups that
// are missing here mix all three, so each of their keys must be judged.
var usual = map[group]judgement{
	groupUnit:    {reach: whenNeeded, why: "jobs, conditions and dependencies are consulted when a unit is started, stopped or fails"},
	groupInstall: {reach: whenNeeded, why: "read by systemctl enable and disable alone"},
	groupKill:    {reach: whenNeeded, why: "consulted when the service is killed"},
	groupExec:    {reach: atStart, why: "done to each process between fork and execve"},
}

// judgements are the exceptions from the usual, and all keys of the groups
// that have none. The facts were read in systemd's sources (service.c,
// cgroup.c, execute.c, unit.c) and, where "seen" is said, observed on a
// running 252 and 262.
var judgements = map[group][]judgement{
	groupUnit: {
		{"the name space is joined when a process is made", atStart, `JoinsNamespaceOf`},
		{"an attribute of the cgroup, written again at daemon-reload (seen)", onReload, `SurviveFinalKillSignal`},
	},
	groupExec: {
		{"consulted when the service stops or is cleaned", whenNeeded, `RemoveIPC RuntimeDirectoryPreserve TimeoutCleanSec`},
		{"an attribute of the cgroup, written again at daemon-reload (seen); the other Log keys are files for journald that are written at the start (seen)",
			onReload, `LogFilterPatterns`},
	},
	groupService: {
		{"a step of the start, which may have left something behind", atStart, `ExecCondition ExecStart ExecStartPost ExecStartPre
			PermissionsStartOnly RootDirectoryStartOnly`},
		{"decides how the service counted as started, or which process is its main one", atStart, `BusName GuessMainPID PIDFile Type`},
		{"stands in the environment of the processes, at least in part", atStart, `FileDescriptorStoreMax NotifyAccess WatchdogSec`},
		{"concerns file descriptors that are handed over at the start", atStart, `LUOSession NonBlocking OpenFile Sockets
			USBFunctionDescriptors USBFunctionStrings`},
		{"the kernel's part is an attribute of the cgroup, written again at daemon-reload (seen); systemd's is consulted after a kill",
			onReload, `OOMPolicy`},
		{"the timer is set anew at daemon-reload, counted from the start (seen)", whenNeeded, `RuntimeMaxSec RuntimeRandomizedExtraSec`},
		{"consulted when the service is reloaded or stops", whenNeeded, `ExecReload ExecReloadPost ExecStop ExecStopPost
			FileDescriptorStorePreserve RefreshOnReload ReloadSignal TimeoutAbortSec TimeoutSec TimeoutStopFailureMode TimeoutStopSec`},
		{"consulted when the service has ended, or is started again", whenNeeded, `ExitType FailureAction RebootArgument RemainAfterExit Restart
			RestartForceExitStatus RestartMaxDelaySec RestartMode RestartPreventExitStatus RestartRandomizedDelaySec RestartSec RestartSteps
			StartLimitAction StartLimitBurst StartLimitInterval SuccessExitStatus TimeoutStartFailureMode TimeoutStartSec`},
		{"has no effect in any version that a host runs", whenNeeded, `BusPolicy FsckPassNo SysVStartPriority`},
	},
	groupCgroup: {
		{"the cgroup of a running service is neither moved nor delegated; a new Slice= even leaves its old filters of packets and devices in force (seen)",
			atStart, `Delegate DelegateSubgroup Slice`},
		{"consulted when a device is opened or a socket made: what is open stays open (seen for DevicePolicy=)",
			atStart, `BindNetworkInterface DeviceAllow DevicePolicy SocketBindAllow SocketBindDeny`},
		{"a restriction comes with daemon-reload and does not go with it (seen for RestrictNetworkInterfaces=)",
			atStart, `BPFProgram IPEgressFilterPath IPIngressFilterPath RestrictNetworkInterfaces`},
		{"half of it is done when a process is made", atStart, `NFTSet`},
		{"stands in the environment of the processes", atStart, `CPUPressureThresholdSec CPUPressureWatch IOPressureThresholdSec
			IOPressureWatch MemoryPressureThresholdSec MemoryPressureWatch`},
		{"told to systemd-oomd whenever the unit is loaded", whenNeeded, `ManagedOOMMemoryPressure ManagedOOMMemoryPressureDurationSec
			ManagedOOMMemoryPressureLimit ManagedOOMMemoryPressureLimitPercent ManagedOOMSwap OOMRules`},
		{"an attribute of the cgroup or a packet filter on it, written again at daemon-reload (seen for memory, CPU, tasks, IP addresses and extended attributes)",
			onReload, `AllowedCPUs AllowedMemoryNodes BlockIOAccounting BlockIODeviceWeight BlockIOReadBandwidth BlockIOWeight BlockIOWriteBandwidth
			CPUAccounting CPUQuota CPUQuotaPeriodSec CPUSetPartition CPUShares CPUWeight CoredumpReceive DefaultMemoryLow DefaultMemoryMin
			DefaultStartupMemoryLow DisableControllers IOAccounting IODeviceLatencyTargetSec IODeviceWeight IOReadBandwidthMax IOReadIOPSMax
			IOWeight IOWriteBandwidthMax IOWriteIOPSMax IPAccounting IPAddressAllow IPAddressDeny ManagedOOMPreference MemoryAccounting
			MemoryHigh MemoryLimit MemoryLow MemoryMax MemoryMin MemorySoftLimit MemorySwapMax MemoryZSwapMax MemoryZSwapWriteback NetClass
			StartupAllowedCPUs StartupAllowedMemoryNodes StartupBlockIOWeight StartupCPUShares StartupCPUWeight StartupIOWeight
			StartupMemoryHigh StartupMemoryLow StartupMemoryMax StartupMemorySwapMax StartupMemoryZSwapMax TasksAccounting TasksMax`},
	},
}

// parsers sorts the functions that read values (config_parse_ left off) by
// what they do with repeated and empty assignments.
var parsers = []struct {
	kind         systemdkeys.Kind
	keepsOnEmpty bool
	names        string
}{
	// They add what they find and look for nothing else.
	{systemdkeys.Dependencies, true, `obsolete_unit_deps service_sockets unit_deps unit_mounts_for unit_requires_mounts_for`},
	// They warn about the empty value as about any other bad one. Seen for
	// every one of them with systemd-analyze verify of 252, 254, 257 and 262.
	{systemdkeys.Scalar, true, `bool bus_name collect_mode device_policy emergency_action exec_cpu_sched_prio exec_input
		exec_keyring_mode exec_memory_thp exec_output exec_preserve_mode exec_utmp_mode fsck_passno job_mode job_mode_isolate
		job_running_timeout_sec job_timeout_sec log_facility log_level managed_oom_preference memory_pressure_watch memory_thp mode
		notify_access nsec oom_policy pressure_watch private_bpf private_pids private_tmp private_users proc_subset
		protect_control_groups protect_home protect_proc protect_system rlimit runtime_preserve_mode sec sec_fix_0 service_exit_type service_restart service_restart_mode
		service_timeout service_timeout_failure_mode service_type signal sysv_priority unit_slice unsigned`},
	// An empty value is the default, or the empty string.
	{systemdkeys.Scalar, false, `bind_network_interface blockio_weight bpf_delegate_attachments bpf_delegate_commands
		bpf_delegate_maps bpf_delegate_programs cg_cpu_weight cg_weight cpu_quota cpu_shares cpuset_partition
		delegate_subgroup exec_apparmor_profile exec_capabilities exec_cpu_sched_policy exec_io_class exec_io_priority
		exec_mount_apivfs exec_mount_flags exec_mount_propagation_flag exec_nice exec_oom_score_adjust exec_quota exec_root_hash exec_root_hash_sig
		exec_secure_bits exec_selinux_context exec_smack_process_label exit_status image_policy kill_mode log_namespace
		managed_oom_mem_pressure_duration_sec managed_oom_mem_pressure_limit managed_oom_mode memory_limit netclass numa_policy
		personality pid_file protect_hostname reboot_parameter sec_def_infinity service_timeout_abort
		syscall_errno tasks_max tristate tty_size unit_cgroup unit_path_printf unit_string_printf user_group_compat
		working_directory`},
	// They add to what is there, and begin anew with an empty value. A few
	// take a boolean or an inverted list too, which also builds on the former.
	// RootImageOptions= adds up until 259, and since 260 the last one counts:
	// a list, so that no line of it is held back from the versions that add.
	{systemdkeys.List, false, `address_families allowed_cpuset bind_paths blockio_bandwidth blockio_device_weight bpf_foreign_program
		bus_endpoint_policy capability_set cgroup_nft_set cgroup_socket_bind colon_separated_paths delegate device_allow
		disable_controllers documentation environ exec exec_coredump_filter exec_cpu_affinity exec_directories exec_input_data
		exec_input_text extension_images import_credential in_addr_prefixes io_device_latency io_device_weight io_limit
		ip_filter_bpf_progs load_credential log_extra_fields log_filter_patterns luo_sessions managed_oom_rules mount_images
		namespace_flags namespace_path_strv numa_mask open_file pass_environ restrict_filesystems restrict_namespaces
		restrict_network_interfaces root_image_options service_refresh_on_reload set_credential set_status syscall_archs syscall_filter syscall_log temporary_filesystems
		unit_cgroup_attr unit_cgroup_attr_pretty unit_condition_null unit_condition_path unit_condition_string unit_cpu_set
		unit_env_file unit_names unset_environ user_group_strv_compat`},
}

// installKinds are the kinds of the keys in [Install]. systemd's key table
// names no parser for them; systemctl reads them.
var installKinds = map[string]systemdkeys.Kind{
	"Alias":           systemdkeys.List,
	"Also":            systemdkeys.Dependencies,
	"DefaultInstance": systemdkeys.Scalar,
	"RequiredBy":      systemdkeys.List,
	"UpheldBy":        systemdkeys.List,
	"WantedBy":        systemdkeys.List,
}

// replaced names the keys that systemd documents in place of old ones. An old
// key that is missing here went without a successor, or is still documented.
var replaced = map[name]string{
	{"Service", "BlockIOAccounting"}:                    "IOAccounting",
	{"Service", "BlockIODeviceWeight"}:                  "IODeviceWeight",
	{"Service", "BlockIOReadBandwidth"}:                 "IOReadBandwidthMax",
	{"Service", "BlockIOWeight"}:                        "IOWeight",
	{"Service", "BlockIOWriteBandwidth"}:                "IOWriteBandwidthMax",
	{"Service", "CPUShares"}:                            "CPUWeight",
	{"Service", "Capabilities"}:                         "AmbientCapabilities",
	{"Service", "ControlGroup"}:                         "Slice",
	{"Service", "DeviceDeny"}:                           "DevicePolicy",
	{"Service", "FailureAction"}:                        "[Unit] FailureAction",
	{"Service", "InaccessibleDirectories"}:              "InaccessiblePaths",
	{"Service", "ManagedOOMMemoryPressureLimitPercent"}: "ManagedOOMMemoryPressureLimit",
	{"Service", "MemoryLimit"}:                          "MemoryMax",
	{"Service", "MemorySoftLimit"}:                      "MemoryHigh",
	{"Service", "ReadOnlyDirectories"}:                  "ReadOnlyPaths",
	{"Service", "ReadWriteDirectories"}:                 "ReadWritePaths",
	{"Service", "RebootArgument"}:                       "[Unit] RebootArgument",
	{"Service", "StartLimitAction"}:                     "[Unit] StartLimitAction",
	{"Service", "StartLimitBurst"}:                      "[Unit] StartLimitBurst",
	{"Service", "StartLimitInterval"}:                   "[Unit] StartLimitIntervalSec",
	{"Service", "StartupBlockIOWeight"}:                 "StartupIOWeight",
	{"Service", "StartupCPUShares"}:                     "StartupCPUWeight",
	{"Unit", "BindTo"}:                                  "BindsTo",
	{"Unit", "Names"}:                                   "[Install] Alias",
	{"Unit", "OnFailureIsolate"}:                        "OnFailureJobMode",
	{"Unit", "PropagateReloadFrom"}:                     "ReloadPropagatedFrom",
	{"Unit", "PropagateReloadTo"}:                       "PropagatesReloadTo",
	{"Unit", "RequiresOverridable"}:                     "Requires",
	{"Unit", "RequisiteOverridable"}:                    "Requisite",
	{"Unit", "StartLimitInterval"}:                      "StartLimitIntervalSec",
}

// judged is a key with the table that it goes to.
type judged struct {
	group group
	key   systemdkeys.Key
}

// judge applies the rules to all facts. Facts without a rule, and rules
// without a fact, are errors: a maintainer decides, not a default.
func judge(facts []fact) ([]judged, error) {
	reaches, errs := reachOf()
	known := make(map[name]bool)
	var keys []judged
	for _, f := range facts {
		known[f.name] = true
		k := systemdkeys.Key{
			Section: f.name.section, Name: f.name.key,
			Since: f.since, Ignored: f.ignored, Removed: f.removed, Replaced: replaced[f.name],
		}
		var err error
		k.Kind, k.KeepsOnEmpty, err = kindOf(f)
		errs = errors.Join(errs, err)
		at := judgedKey{f.last.group, f.name.key}
		r, ok := reaches[at]
		delete(reaches, at)
		if !ok {
			u, ok := usual[f.last.group]
			if !ok {
				errs = errors.Join(errs, fmt.Errorf("%v has no judgement: when does a change reach a running service?", f.name))
			}
			r = u.reach
		}
		k.Restart, k.Cgroup = r == atStart, r == onReload
		keys = append(keys, judged{f.last.group, k})
	}
	for at := range reaches {
		errs = errors.Join(errs, fmt.Errorf("the judgement of %s (%s) is about no key", at.key, at.group))
	}
	for n := range replaced {
		if !known[n] {
			errs = errors.Join(errs, fmt.Errorf("the replacement of %v is about no key", n))
		}
	}
	return keys, errs
}

type judgedKey struct {
	group group
	key   string
}

func reachOf() (map[judgedKey]reach, error) {
	var errs error
	reaches := make(map[judgedKey]reach)
	for g, list := range judgements {
		for _, j := range list {
			for key := range strings.FieldsSeq(j.keys) {
				if _, twice := reaches[judgedKey{g, key}]; twice {
					errs = errors.Join(errs, fmt.Errorf("%s (%s) is judged twice", key, g))
				}
				reaches[judgedKey{g, key}] = j.reach
			}
		}
	}
	return reaches, errs
}

// kindOf derives the kind from the function that read the key last, and the
// answer to empty assignments from all that a host's systemd may have.
func kindOf(f fact) (systemdkeys.Kind, bool, error) {
	if f.last.group == groupInstall {
		kind, ok := installKinds[f.name.key]
		if !ok {
			return 0, false, fmt.Errorf("%v has no kind", f.name)
		}
		return kind, kind == systemdkeys.Dependencies, nil
	}
	kind, keeps, err := parserKind(f.last.parser)
	for _, p := range f.parsers {
		_, k, parserErr := parserKind(p)
		keeps, err = keeps || k, errors.Join(err, parserErr)
	}
	if err != nil {
		return 0, false, fmt.Errorf("%v: %w", f.name, err)
	}
	return kind, keeps, nil
}

func parserKind(parser string) (systemdkeys.Kind, bool, error) {
	short := strings.TrimPrefix(parser, "config_parse_")
	for _, p := range parsers {
		for n := range strings.FieldsSeq(p.names) {
			if n == short {
				return p.kind, p.keepsOnEmpty, nil
			}
		}
	}
	return 0, false, fmt.Errorf("what %s does with repeated and empty assignments is not known", parser)
}
