package main

// service describes the service of a VM, in ampoule.microvm(5). The long form is
// docs/units.md.
func service(p *page) {
	p.section("THE SERVICE")
	p.paragraph("ampoule-generator(8) makes microvm@NAME.service of a file in the search path, at boot and at systemctl daemon-reload. Until then a change of the files changes nothing, and a VM that is running keeps its plan until it is started anew. " +
		"systemctl, journalctl and drop-ins of systemd's own work on it as on any service.")
	p.paragraph("The lines of [Unit], [Service] and [Install] are part of the service. They come after those that are generated, and win: Restart=no, TimeoutStopSec=5min, Nice=5, MemoryMax=2G or After=backup.service do what they say. A list is added to; an empty assignment before clears what is generated, where systemd lets it. " +
		"Keys that systemd does not have, or not in this host's version, are mistakes, as is an empty assignment that systemd would ignore.")
	p.item("[Install]", "WantedBy=, RequiredBy=, UpheldBy= and Alias= take effect with the next daemon-reload. systemctl enable is neither needed nor possible: systemd calls such a unit generated. Without [Install] the VM is started by systemctl start, or by what depends on it.")
	p.item("[Service] ExecStart=", "After an empty one, a command of yours in the place of ampoule run, which it may call with --plan=$CREDENTIALS_DIRECTORY/ampoule.plan. The service is then Type=exec unless Type= says otherwise. Without the empty one it is a mistake.")
	p.item("[Service] ExecStartPre=", "With + before the command it is run by root and outside of the sandbox, and may make what LoadCredential= is to load.")
	p.item("[Service] LoadCredential=", "And its kin load for the service alone; Credential= passes such a one to the guest.")
	p.section("LIFE OF THE SERVICE")
	p.paragraph("It is started when the guest is ready, by Readiness=. The status text of systemctl status says where it is: booting; ready; started, guest not observed, if Readiness= is started; rebooting; powering off.")
	p.paragraph("systemctl stop presses the power button of the VM, and again every five seconds. What has not powered off after TimeoutStopSec=, 60 seconds by default, is killed. A guest that powers off ends the service, which is then inactive. A guest that reboots stays the same start of the service, with the same plan and credentials. " +
		"After a crash of hypervisor or guest the service is restarted (Restart=on-failure), after a mistake it is not.")
	p.paragraph("The service ends with the exit code of ampoule run:")
	p.item("0", "The guest powered off.")
	p.item("2", "Bad input, such as a missing credential, a file that the VM's user may not open, or a mistake in the files; nothing was started, and nothing is restarted.")
	p.item("119", "The guest's own exit status, where it is one of these codes.")
	p.item("120", "The guest's kernel panicked.")
	p.item("121", "The hypervisor or the Runner= died or did not start.")
	p.item("122", "The guest did not power off in time and was killed.")
	p.section("FILES")
	p.item("/var/lib/ampoule/vm/NAME", "The state directory, with the disks of relative Disk= lines.")
	p.item("/run/ampoule/vm/NAME", "The runtime directory, as long as the service runs; /run/ampoule/run/NAME is that of a VM which root runs by hand.")
	p.item("/var/cache/ampoule/vm/NAME", "What was seen in kernel and initial RAM disk; may be removed.")
}
