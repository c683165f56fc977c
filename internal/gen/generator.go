package main

import (
	"strings"

	"github.com/ampoule-vm/ampoule/internal/source"
)

// manualOfGenerator is ampoule-generator(8).
func manualOfGenerator() []byte {
	p := newPage("AMPOULE-GENERATOR", "8", "ampoule-generator", "services of .microvm files")
	p.section("SYNOPSIS")
	p.paragraph("/usr/lib/systemd/system-generators/ampoule-generator NORMAL-DIR [EARLY-DIR LATE-DIR]")
	p.section("DESCRIPTION")
	p.paragraph("systemd runs this program at boot and at each systemctl daemon-reload. It makes the service microvm@NAME.service of each VM that is declared, with the links that its [Install] asks for, " +
		"and writes all into NORMAL-DIR. It starts nothing, stops nothing and asks nobody: what runs goes on with the plan that it was started with.")
	p.paragraph("It needs nothing but its files. It opens no kernel, disk or secret, which may come later, and does not mind if /var is not mounted yet. Whether all is there is judged at the start of the VM, and by ampoule check at any time.")
	p.paragraph("ampoule generate --dry-run shows to anybody what it would write, and writes nothing.")

	p.section("WHAT IT READS")
	p.item("NAME.microvm", "The first in "+strings.Join(source.SearchPath(), ", ")+". A link to /dev/null masks the VM.")
	p.item("drop-ins", "*.conf in NAME.microvm.d, in the directories of the name's prefixes, and in microvm.d, in the same places; see ampoule.microvm(5). Drop-ins of a NAME for which there is no file are a mistake, and get a unit that says so.")
	p.item("systemd's unit directories", "Where another file provides microvm@NAME.service (one in /etc/systemd/system, or microvm.nix for this VM), the unit is left to it, and the VM's file is reported.")
	p.item("the version of systemd", "By the name of its library: a key of [Unit], [Service] or [Install] that this version does not carry out is a mistake.")
	p.item("/etc/group", "Where the host has a group kvm, the VM's user is in it if the plan may use KVM.")
	p.item("/run/ampoule/vm", "Which VMs are running.")

	p.section("THE UNITS")
	p.paragraph("Each VM comes to one of these; the words are those of ampoule generate --dry-run.")
	p.item("made", "The files are in order. The service carries the plan, frozen; what it consists of is in ampoule.microvm(5).")
	p.item("failing", "The files have mistakes, or there are drop-ins without a VM. The service has no effect but to fail when it is started, with every mistake as FILE:LINE in the journal and the first of them in its description. Its links are made all the same, so that the failure is seen at boot, and its OnFailure= is kept. Other VMs are not touched.")
	p.item("kept", "The files have mistakes, and the VM is running. Its last good unit stays loaded: it is stopped in order, and is restarted after a crash. Once it was stopped it does not start before the mistakes are gone.")
	p.item("gone", "The VM is running, and its file was removed or masked. Its last good unit stays until the VM has ended, without its links, described as not declared any more; it is stopped in order and does not start again.")
	p.item("masked", "The VM's file is a link to /dev/null. So is the unit.")
	p.item("hidden", "Another file provides the unit. None is made.")
	p.paragraph("A unit or a link appears whole or not at all, also where two generators run at once, and the same files make the same bytes.")

	p.section("LOGGING")
	p.paragraph("Each mistake and warning is one line FILE:LINE: KEY=VALUE: what. It goes to the journal, under the unit's name, so that systemctl status microvm@NAME and journalctl -u microvm@NAME show it, and journalctl -t ampoule-generator shows all; " +
		"where the journal does not listen yet, to the kernel's log; and to standard error, which systemd throws away. After 500 lines it ends with a hint at ampoule generate --dry-run. A value that may be secret is never in it.")
	p.section("ENVIRONMENT")
	p.paragraph("None. The variables that systemd sets for generators are not read.")
	p.section("EXIT STATUS")
	p.item("0", "All units were written, and no file has a mistake.")
	p.item("1", "A file has a mistake, or a unit could not be written. systemd notes it in the journal and uses what was written.")
	p.item("2", "It was called in another way than systemd does.")
	p.paragraph("After 60 seconds it gives up with 1, for systemd would kill all generators after 90.")

	p.section("FILES")
	p.item("/run/systemd/generator/microvm@NAME.service", "The unit, and beside it the directories of its links, such as multi-user.target.wants.")
	p.item("/run/ampoule/generator", "The last good unit of each VM, for root alone.")
	p.item("PREFIX/bin/ampoule", "What the units run: the program that was installed with the generator, in PREFIX/lib/systemd/system-generators.")
	p.item("/etc/systemd/system-generators/ampoule-generator", "A link to /dev/null at this place turns the generator off.")

	p.section("WHEN SOMETHING IS NOT AS IT SHOULD BE")
	p.paragraph("What would be made, of all VMs or of one, and every mistake:")
	p.literal("ampoule generate --dry-run web")
	p.paragraph("What systemd thinks of it, by the generator as it is installed:")
	p.literal("systemd-analyze verify --generators=yes microvm@web.service")
	p.paragraph("What is loaded, with all drop-ins of systemd's own:")
	p.literal("systemctl cat microvm@web.service")
	p.paragraph("What the last boot or reload had to say:")
	p.literal("journalctl -b -t ampoule-generator")
	p.paragraph("The generator itself, into a directory of one's own, in which it keeps no last good units:")
	p.literal("mkdir /tmp/units", "/usr/lib/systemd/system-generators/ampoule-generator /tmp/units; echo $?")
	p.references("ampoule-generator(8)", "systemd.generator(7)", "systemd.unit(5)", "systemctl(1)", "systemd-analyze(1)")
	return p.Bytes()
}
