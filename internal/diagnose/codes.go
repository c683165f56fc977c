package diagnose

import "github.com/ampoule-vm/ampoule/internal/diag"

// Code is the name of a cause, which programs may go by.
type Code string

// Row is all that is known of a cause: the table is the one place where it is
// named, and the manual is written from it.
type Row struct {
	Code     Code
	Severity diag.Severity
	// Means says what is so, Seen by what it is recognised, Do what mends it.
	Means, Seen, Do string
	// host or vm is the rule; nil where it is not so.
	host func(*Host) *Finding
	vm   func(*Host, *VM) *Finding
}

// Codes lists the causes in the order in which a report has them, within each
// severity.
func Codes() []Row { return append(errorCodes(), otherCodes()...) }

// errorCodes are the causes that keep a VM from what it is for, or lay a secret open.
func errorCodes() []Row {
	return []Row{
		{Code: "runner-override-lost", Severity: diag.Error, vm: runnerOverrideLost,
			Means: "The unit loads credentials, and the deployed run script is microvm.nix's own and reads none. A script of the same VM that reads them was built and lies in the store, and nothing refers to it: `binScripts.microvm-run` was set, and microvm.nix puts its own script of that name over it without a word.",
			Seen:  "The links `current`, the script behind it, the other scripts `microvm-NAME-microvm-run` in the store and who refers to them; the units; the sources where they set it.",
			Do:    "Start the VM by Ampoule in the same unit, with a drop-in, until the next boot; and in the configuration use `microvm.vms.NAME.ampoule.credentials` instead of `binScripts.microvm-run`."},
		{Code: "credentials-unread", Severity: diag.Error, vm: credentialsUnread,
			Means: "The unit loads credentials, and nothing that the VM starts with reads them. The guest never gets them.",
			Seen:  "The unit's credentials; the run script, and the scripts of `preStart` and `extraArgsScript`, in which neither `$CREDENTIALS_DIRECTORY` nor `/run/credentials` stands.",
			Do:    "As for runner-override-lost."},
		{Code: "credential-name-mismatch", Severity: diag.Error, vm: credentialNameMismatch,
			Means: "The names of credentials in the unit, in the run script and in the guest's services are not the same ones. systemd says nothing of a credential that nobody loads.",
			Seen:  "The ids in the unit, the names below `$CREDENTIALS_DIRECTORY` in the scripts, `LoadCredential=` and `ImportCredential=` of the units in the guest's system, where that is in the host's store.",
			Do:    "Use one name everywhere; letters' case and dashes count."},
		{Code: "secret-missing", Severity: diag.Error, vm: secretMissing,
			Means: "The source of a credential is not there, there is no default for it, and no unit of the host makes it. systemd ends the unit with status 243 and no further word.",
			Seen:  "The path in the unit, all links followed.",
			Do:    "Make the file, or correct the path."},
		{Code: "secret-in-argv", Severity: diag.Error, vm: secretInArgv,
			Means: "A hypervisor's command line has the value of a credential. Every user of the host can read it while the VM runs.",
			Seen:  "The words of the deployed script and of the process: `io.systemd.credential:NAME=VALUE`, `string=VALUE`, `systemd.set_credential=`, or the value of a source that may be read.",
			Do:    "Change the secret, and give it to the VM as a credential that Ampoule delivers."},
		{Code: "secret-in-store", Severity: diag.Error, vm: secretInStore,
			Means: "A store path has the value of a credential. The store is readable by every user, and by every guest that shares it, and is copied to caches.",
			Seen:  "`SetCredential=` in a unit (alone a warning, since its value need not be a secret), a source below /nix/store, and the units, scripts, environment files and sources of the VM in the store.",
			Do:    "Change the secret, and keep it in a file outside the store (sops-nix, agenix, systemd-creds)."},
		{Code: "secret-in-oem-strings", Severity: diag.Error, vm: secretInOEMStrings,
			Means: "`microvm.cloud-hypervisor.platformOEMStrings` has a credential with its value: it is in the store and in the hypervisor's command line.",
			Seen:  "`--platform oem_strings=[…]` in the deployed script. `vmm.notify_socket` is no secret.",
			Do:    "Change the secret, remove the line, and let Ampoule deliver the credential by the hypervisor's API."},
		{Code: "secret-too-open", Severity: diag.Error, vm: secretTooOpen,
			Means: "The source of a credential may be read by everybody, or by the group of all VMs: whoever gets out of one VM has it.",
			Seen:  "The mode of the file, and of the directories above it.",
			Do:    "Mode 0400, owner root. systemd reads it as root."},
		{Code: "link-dangling", Severity: diag.Error, vm: linkDangling,
			Means: "`current` or `booted` leads to a path that is not there: it was collected as garbage, or the store is another one. The VM cannot start, or not stop as it should.",
			Seen:  "The links in the VM's directory.",
			Do:    "Install the runner again."},
		{Code: "running-not-booted", Severity: diag.Error, vm: runningNotBooted,
			Means: "The hypervisor that runs has other words than the runner that is noted as booted gives it: somebody started it by hand, or changed the link.",
			Seen:  "`/proc/PID/cmdline` of the unit's process beside the script behind `booted`.",
			Do:    "Restart the VM."},
		{Code: "source-untracked", Severity: diag.Error, host: hostUntracked, vm: vmUntracked,
			Means: "The configuration names a file that git does not know. A flake is what git tracks: Nix does not see the file, and builds as if it were not there, or does not build.",
			Seen:  "The git index of the flake's directory, the relative paths in its .nix files, and the files on the disk.",
			Do:    "`git add` the file, and build again."},
	}
}

// otherCodes are the causes that may be meant.
func otherCodes() []Row {
	return []Row{
		{Code: "execstart-shadowed", Severity: diag.Warning, vm: execStartShadowed,
			Means: "A drop-in starts another program than the runner's. Whatever is configured for the runner has no effect. With a second ExecStart= that no empty one precedes, systemd refuses the unit.",
			Seen:  "The lines of ExecStart= that count, of the template and all drop-ins.",
			Do:    "Remove the drop-in, or have it start what is meant."},
		{Code: "script-edited", Severity: diag.Warning, vm: scriptEdited,
			Means: "The deployed run script is none that microvm.nix makes: it was changed by hand, or is of somewhere else. The next update takes the change away.",
			Seen:  "Where `current/bin/microvm-run` leads, its statements beside the template of microvm.nix, and, with Nix's database, its hash.",
			Do:    "Put the change into the configuration, and install the runner again."},
		{Code: "flake-pinned", Severity: diag.Warning, vm: flakePinned,
			Means: "The VM's flake is a path in the store: `microvm -u` builds the same again, whatever has changed.",
			Seen:  "The file `flake` in the VM's directory.",
			Do:    "Set `microvm.vms.NAME.updateFlake`, or write the flake's address into the file."},
		{Code: "flake-install-once", Severity: diag.Warning, vm: flakeInstallOnce,
			Means: "With `updateFlake` the system installs a VM once. What it declares now is another runner than the installed one, and it will not be installed by a rebuild.",
			Seen:  "`ConditionPathExists=!` in the install unit; the runner in its script beside `current`.",
			Do:    "`microvm -u NAME`."},
		{Code: "imperative-over-declarative", Severity: diag.Warning, vm: imperativeOverDeclarative,
			Means: "The runner that is installed was put in the place of the one that the system declares. The next switch takes it away again.",
			Seen:  "`current` beside the runner in the install script, and which of them is newer; a file `flake` or a link `toplevel` that contradicts.",
			Do:    "Decide for one: put the change into the configuration of the host, or remove the VM from it."},
		{Code: "target-inactive", Severity: diag.Warning, vm: targetInactive,
			Means: "The system declares a VM, or another runner for it, and has never installed that: `microvms.target` was not started since.",
			Seen:  "No directory, no `current`, or one older than the system, beside the runner in the install script.",
			Do:    "`systemctl start microvms.target`, or the install unit of the VM."},
		{Code: "built-not-switched", Severity: diag.Warning, host: builtNotSwitched,
			Means: "A newer system was built than the one that runs (`nixos-rebuild build` or `boot`). None of its changes has an effect yet.",
			Seen:  "The system profile beside /run/current-system.",
			Do:    "`nixos-rebuild switch`, or a reboot."},
		{Code: "running-not-in-profile", Severity: diag.Warning, host: runningNotInProfile,
			Means: "The system that runs is not the one that the profile names (`nixos-rebuild test`, or a rollback without a switch). The next boot has another.",
			Seen:  "The system profile and its generations beside /run/current-system.",
			Do:    "`nixos-rebuild switch` to the one that is meant."},
		{Code: "restart-not-wanted", Severity: diag.Warning, vm: restartNotWanted,
			Means: "A newer runner is installed than the one that runs, and the unit says that a switch must not restart it (`restartIfChanged`, which is false for VMs from a flake or an evaluated configuration).",
			Seen:  "The last X-RestartIfChanged= of the unit; `current` beside `booted`.",
			Do:    "Restart the VM, or set `microvm.vms.NAME.restartIfChanged = true`."},
		{Code: "trigger-unchanged", Severity: diag.Warning, vm: triggerUnchanged,
			Means: "A newer runner is installed than the one that runs, and the switch did not restart the VM: the trigger names the guest's system alone, which is the same. Memory, processors, interfaces, devices and arguments of the hypervisor are not in it.",
			Seen:  "`current` beside `booted`, and the guest's system of both.",
			Do:    "Restart the VM."},
		{Code: "name-with-dot", Severity: diag.Warning, vm: nameWithDot,
			Means: "The VM's name has a dot. NixOS's switch-to-configuration cuts a unit's name at its first dot, does not recognise the instance, and restarts nothing.",
			Seen:  "The name.",
			Do:    "Name it without a dot."},
		{Code: "vm-removed", Severity: diag.Warning, vm: vmRemoved,
			Means: "The VM was removed from the configuration; its directory, its disks and perhaps its interfaces are still there.",
			Seen:  "The directory with `current`, no install unit in the current system, and no root that the imperative command makes; its interfaces in /sys/class/net.",
			Do:    "Stop it, keep what is to be kept, and remove the directory."},
		{Code: "gc-root-lost", Severity: diag.Warning, vm: gcRootLost,
			Means: "Nothing keeps the runner of the VM from being collected as garbage: the system that declared it is gone. After a collection the VM cannot be stopped or started as it was.",
			Seen:  "Nix's roots, and by the database what refers to the runner.",
			Do:    "Restart the VM into a runner that a system declares, or make a root."},
		{Code: "secret-newer", Severity: diag.Warning, vm: secretNewer,
			Means: "The source of a credential was written after the VM was started, which has the old value until it is restarted.",
			Seen:  "The file's time beside the process's, or that of the link `booted`.",
			Do:    "Restart the VM."},
		{Code: "secret-after-unit", Severity: diag.Warning, vm: secretAfterUnit,
			Means: "The source of a credential is made by a unit that the VM does not wait for. At boot the VM may be first, and fails.",
			Seen:  "The units of the host that make the file, and After= of the VM's.",
			Do:    "After= and Wants= on that unit."},
		{Code: "option-ignored", Severity: diag.Warning, vm: optionIgnored,
			Means: "An option is set that microvm.nix does not carry out for the hypervisor in use, and passes over in silence.",
			Seen:  "The runner's notes, its script, and the sources, with the deployed hypervisor.",
			Do:    "Remove the option, or use a hypervisor that has it."},
		{Code: "root-runs-replaceable", Severity: diag.Warning, host: rootRunsReplaceable,
			Means: "Units execute as root what lies behind links that another user may replace: whoever gets out of a VM, or is in the group kvm, becomes root at the next start.",
			Seen:  "The units that execute STATE/NAME/current/bin/… as root; owner and mode of the directories. microvm.nix makes them so.",
			Do:    "Have the directories belong to root where nothing needs otherwise, or start VMs by Ampoule, which executes nothing that a VM's user may have written."},
		{Code: "host-kernel-old", Severity: diag.Note, host: hostKernelOld,
			Means: "The host runs another kernel, initial RAM disk or modules than its current system has. Modules for tap, vhost or vfio may not load.",
			Seen:  "/run/booted-system beside /run/current-system.",
			Do:    "Reboot the host when it suits."},
	}
}

// Whose says whether the cause is a VM's, the host's, or may be either's.
func (r Row) Whose() string {
	switch {
	case r.host != nil && r.vm != nil:
		return "the host or a VM"
	case r.host != nil:
		return "the host"
	}
	return "a VM"
}
