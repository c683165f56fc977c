package main

import (
	"bytes"
	"fmt"

	"github.com/ampoule-vm/ampoule/internal/diagnose"
)

const diagnoseIntro = `<!-- generated from internal/diagnose/codes.go by make gen -->
# ampoule diagnose: what it finds

` + "`ampoule diagnose`" + ` reads a NixOS host with microvm.nix, this one or one whose files lie below
` + "`--root DIR`" + `, and explains the state of its microVMs. It needs no Nix and no network, executes
nothing and writes nothing. A finding has the evidence with paths and lines, the cause, and
commands that mend it. What could not be read is listed at the end as not known, and is
never a finding.

| it reads | for |
|---|---|
| /nix/var/nix/profiles, /run/current-system, /run/booted-system | which system is declared, runs, was booted |
| systemd's directories of units, by systemd's own rules for drop-ins | what a VM's unit starts and loads, and by which line |
| install-microvm-NAME.service and its script | which runner the system declares |
| the state directory, as the units name it | what is installed and booted |
| the runner's run script, by a parser of shell, and share/microvm | what is started, and which credentials it reads |
| /nix/var/nix/db/db.sqlite and its log | what refers to what, and when it was built |
| /nix/var/nix/gcroots | what is kept |
| sources in the store that the system refers to, /etc/nixos, flakes of VMs | where an option is set |
| the index of a git work tree | which files a flake has |
| sources of credentials: owner, mode, time, and in memory alone the value | who may read them, and where else they stand |
| units of the guest's system, where it is in the store | which credentials are wanted |
| /proc, /sys/class/net | what runs |

Whoever may not read something gets less: without root mostly values of secrets, and other
users' command lines. The exit code is 0 where nothing was found (notes do not count), 1
for warnings, 3 for errors, 2 for bad input.

`

// markdownOfCauses is the page about what diagnose finds.
func markdownOfCauses() []byte {
	var b bytes.Buffer
	b.WriteString(diagnoseIntro)
	b.WriteString("| code | severity | |\n|---|---|---|\n")
	for _, row := range diagnose.Codes() {
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s |\n", row.Code, row.Code, row.Severity, row.Whose())
	}
	for _, row := range diagnose.Codes() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\nSeen by: %s\n\nTo do: %s\n", row.Code, row.Means, row.Seen, row.Do)
	}
	return b.Bytes()
}
