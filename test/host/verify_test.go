package host

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/verify"
)

// seen is what ampoule verify says of all VMs of a host.
type seen struct {
	VMs []verify.Chain `json:"vms"`
}

// verify asks about all VMs, and wants the exit code that documents what it says.
func (h *host) verify() seen {
	h.Helper()
	var out seen
	text := h.sh("ampoule verify --json 2>/tmp/said; echo $? >/tmp/code; cat /tmp/said >&2")
	if strings.Contains(text, secretValue) {
		h.Errorf("verify says a secret:\n%s", text)
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		h.Fatalf("%v\n%s", err, text)
	}
	codes := map[verify.Link]string{"": "0", verify.Declared: "10", verify.Loaded: "11", verify.Running: "12", verify.Credentials: "13", verify.Guest: "14"}
	first := verify.Link("")
	for _, link := range verify.Links() {
		for i := range out.VMs {
			if first == "" && out.VMs[i].Broken() == link {
				first = link
			}
		}
	}
	h.sh("cat /tmp/code", prints(codes[first]))
	return out
}

// broken wants one finding on the whole host, and returns it.
func (h *host) broken(vm string, link verify.Link, kind string) verify.Finding {
	h.Helper()
	var found []string
	var last verify.Finding
	all := h.verify()
	for i := range all.VMs {
		for _, s := range all.VMs[i].Links {
			for _, f := range s.Findings {
				found = append(found, fmt.Sprintf("%s %s %s", all.VMs[i].Name, s.Link, f.Kind))
				last = f
			}
		}
	}
	if want := fmt.Sprintf("%s %s %s", vm, link, kind); len(found) != 1 || found[0] != want {
		h.Errorf("verify finds %q, want %q", found, want)
		h.sh("ampoule verify "+vm, ends, says("\x00"))
		h.FailNow()
	}
	if strings.TrimSpace(last.What) == "" || last.Cure.String() == "" || strings.ContainsAny(last.What, "\n\t") {
		h.Errorf("%+v", last)
	}
	h.Logf("%s: ampoule verify %s\n%s", kind, vm, h.sh("ampoule verify "+vm, ends, says(vm+": broken at "+string(link), last.What, "cure: "+last.Cure.String())))
	return last
}

// cured carries out the command that verify names, after which all is whole.
func (h *host) cured(f verify.Finding) {
	h.Helper()
	if f.Cure.Command == "" {
		h.Fatalf("%s: %s: there is no command, but: %s", f.Kind, f.What, f.Cure.Line)
	}
	h.sh(f.Cure.Command, within(boots), ends)
	h.unbroken()
}

// done does what verify says is to be written or done, in words that hold all
// of what is done.
func (h *host) done(f verify.Finding, line string, words ...string) {
	h.Helper()
	for _, word := range words {
		if !strings.Contains(f.Cure.Line, word) {
			h.Errorf("%s: the cure %q does not say %q", f.Kind, f.Cure.Line, word)
		}
	}
	h.sh(line, within(boots))
	h.unbroken()
}

// unbroken wants nothing broken on the whole host.
func (h *host) unbroken() {
	h.Helper()
	for deadline := time.Now().Add(boots); ; time.Sleep(200 * time.Millisecond) {
		broken := ""
		all := h.verify()
		for i := range all.VMs {
			if c := &all.VMs[i]; c.Broken() != "" {
				broken += fmt.Sprintf("%+v\n", *c)
			}
		}
		if broken == "" {
			return
		}
		if time.Now().After(deadline) {
			h.Fatalf("still broken:\n%s", broken)
		}
	}
}

// noted wants nothing broken, and a note of a VM with a text; "": none.
func (h *host) noted(vm, text string) {
	h.Helper()
	all := h.verify()
	for i := range all.VMs {
		c := &all.VMs[i]
		if c.Broken() != "" {
			h.Errorf("%+v", *c)
		}
		if notes := strings.Join(c.Notes, "\n"); c.Name == vm && (!strings.Contains(notes, text) || text == "" && notes != "") {
			h.Errorf("the notes of %s are %q, want %q", vm, notes, text)
		}
	}
}

const (
	webFile   = "/etc/ampoule/web.microvm"
	webDropIn = "/etc/systemd/system/microvm@web.service.d/x.conf"
)

// TestVerify: what comes between a VM's files and its guest is made to happen,
// and verify names it alone, with a cure that mends it.
func TestVerify(t *testing.T) {
	onEach(t, func(h *host) {
		startToVerify(h)
		brokenSecrets(h)
		brokenFiles(h)
	})
}

// TestVerifyUnits is TestVerify for what others do to units and processes, and
// for what breaks nothing.
func TestVerifyUnits(t *testing.T) {
	need.All(t, need.VMAll)
	onEach(t, func(h *host) {
		startToVerify(h)
		brokenUnits(h)
		brokenProcesses(h)
		brokenRunner(h)
		unbrokenThings(h)
	})
}

func startToVerify(h *host) {
	h.Helper()
	h.file("/etc/secrets/key", secretValue)
	h.file(webFile, vm("stay", "LoadCredential=KEY:/etc/secrets/key")+install)
	h.sh("ampoule verify web", exits(11), says("systemd has no unit of it yet", "cure: systemctl daemon-reload"))
	h.cured(h.broken("web", verify.Loaded, verify.ReloadDue))
	h.sh("systemctl start microvm@web", within(boots))
	h.sh("ampoule verify --strict", prints("web: whole"))
	h.noted("web", "")
}

// brokenFiles: edited, and not reloaded or not restarted; with a mistake.
func brokenFiles(h *host) {
	h.Helper()
	h.sh("sed -i 's/^Memory=.*/Memory=500M/' " + webFile)
	h.cured(h.broken("web", verify.Loaded, verify.ReloadDue))
	h.sh("sed -i 's/^Memory=.*/Memory=490M/' " + webFile + "; systemctl daemon-reload")
	h.cured(h.broken("web", verify.Running, verify.OldPlan))

	h.sh("sed -i 2iKernl=/x " + webFile + "; systemctl daemon-reload")
	h.done(h.broken("web", verify.Declared, verify.Mistakes), "sed -i 2d "+webFile+"; systemctl daemon-reload", webFile+":2", "daemon-reload")
	h.file("/etc/ampoule/ghost.microvm.d/x.conf", "[MicroVM]\nMemory=1G\n")
	h.done(h.broken("ghost", verify.Declared, verify.DropInAlone), "rm -r /etc/ampoule/ghost.microvm.d", "rename or remove the directory", "daemon-reload")
}

// brokenUnits: what somebody did to the unit by hand.
func brokenUnits(h *host) {
	h.Helper()
	const reload = "; systemctl daemon-reload"
	h.file(webDropIn, "[Service]\nNice=5\n")
	h.cured(h.broken("web", verify.Loaded, verify.ReloadDue))
	h.noted("web", webDropIn+": a drop-in of systemd's")
	h.sh("rm " + webDropIn)
	h.cured(h.broken("web", verify.Loaded, verify.ReloadDue))

	h.file(webDropIn, "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\nType=exec\n")
	h.sh("systemctl daemon-reload")
	h.broken("web", verify.Loaded, verify.OwnCommand)
	h.sh("systemctl restart microvm@web", within(boots))
	f := h.broken("web", verify.Loaded, verify.OwnCommand)
	h.done(f, "rm "+webDropIn+reload+"; systemctl restart microvm@web", "remove", webDropIn+":3", "daemon-reload && systemctl restart microvm@web.service")

	h.file(webDropIn, "[Service]\nSetCredential=\n")
	h.sh("systemctl daemon-reload")
	h.done(h.broken("web", verify.Loaded, verify.PlanReset), "rm "+webDropIn+reload, "remove "+webDropIn+":2")
	h.file(webDropIn, "[Service]\nLoadCredential=\n")
	h.sh("systemctl daemon-reload")
	h.done(h.broken("web", verify.Loaded, verify.CredentialReset), "rm "+webDropIn+reload, "remove "+webDropIn+":2")
	h.file(webDropIn, "[Service]\nLoadCredential=KEY:/etc/hostname\n")
	h.sh("systemctl daemon-reload")
	h.done(h.broken("web", verify.Loaded, verify.CredentialReset), "rm "+webDropIn+reload, "remove "+webDropIn+":2")

	h.file("/etc/systemd/system/microvm@web.service", "[Service]\nExecStart=/bin/sleep infinity\n")
	h.sh("systemctl daemon-reload")
	h.cured(h.broken("web", verify.Loaded, verify.Hidden))

	h.file("/etc/systemd/system/microvm@wbe.service.d/x.conf", "[Service]\nNice=5\n")
	h.sh("systemctl daemon-reload")
	h.done(h.broken("wbe", verify.Declared, verify.DropInAlone), "rm -r /etc/systemd/system/microvm@wbe.service.d", "remove it", "web")
}

// brokenProcesses: what runs is not what lies on the disk.
func brokenProcesses(h *host) {
	h.Helper()
	h.sh("cp /usr/bin/qemu-system-x86_64 /usr/bin/qemu.new && mv /usr/bin/qemu.new /usr/bin/qemu-system-x86_64")
	h.cured(h.broken("web", verify.Running, verify.BinaryReplaced))
}

// brokenSecrets: a source that has changed, is open, or is gone.
func brokenSecrets(h *host) {
	h.Helper()
	h.sh("echo another >/etc/secrets/key")
	h.cured(h.broken("web", verify.Credentials, verify.Rotated))
	h.sh("chmod 644 /etc/secrets/key")
	h.cured(h.broken("web", verify.Credentials, verify.Open))
	h.sh("mv /etc/secrets/key /etc/secrets/away")
	h.done(h.broken("web", verify.Credentials, verify.Missing), "mv /etc/secrets/away /etc/secrets/key", "bring it back")
}

// brokenRunner: the failure that nobody saw. Everything runs, and the guest does
// not get its secret. And a VM that is removed while it runs.
func brokenRunner(h *host) {
	h.Helper()
	const own = "/usr/local/bin/run-own"
	h.sh("printf '#!/bin/sh\nexec sleep infinity\n' >" + own + "; chmod 755 " + own)
	h.file("/etc/ampoule/own.microvm", vm("stay", "LoadCredential=KEY:/etc/secrets/key", "Runner="+own)+"[Service]\nRestart=no\n")
	h.file("/etc/ampoule/own.microvm.d/x.conf", "[MicroVM]\nReadiness=started\n")
	h.sh("systemctl daemon-reload; systemctl start microvm@own", within(boots))
	f := h.broken("own", verify.Credentials, verify.Undelivered)
	if !strings.Contains(f.What, "not delivered through Ampoule: "+own) || !strings.Contains(f.What, "what it did with KEY is not known") {
		h.Errorf("%q", f.What)
	}
	h.done(f, "printf '#!/bin/sh\nexec ampoule boot\n' >"+own+"; systemctl restart microvm@own", "let "+own+" end in: exec ampoule boot", "systemctl restart microvm@own.service")
	h.sh("systemctl stop microvm@own; printf '#!/bin/sh\nexit 3\n' >"+own+"; systemctl start microvm@own; sleep 1; systemctl kill microvm@own", within(boots), ends)
	h.eventually("systemctl show -P ActiveState microvm@own", ends, says("failed"))
	h.done(h.broken("own", verify.Running, verify.Failed), "printf '#!/bin/sh\nexec ampoule boot\n' >"+own+"; systemctl start microvm@own", "journalctl -u microvm@own.service", "systemctl start")
	h.sh("rm -r /etc/ampoule/own.microvm*")
	f = h.broken("own", verify.Declared, verify.NotDeclared)
	h.sh("systemctl daemon-reload")
	if again := h.broken("own", verify.Declared, verify.NotDeclared); again.Cure != f.Cure {
		h.Errorf("%+v, and after daemon-reload %+v", f, again)
	}
	h.cured(f)
	h.sh("ampoule verify own", exits(2), says("no VM has the name"))
}

// unbrokenThings break nothing.
func unbrokenThings(h *host) {
	h.Helper()
	h.sh("echo '# a comment' >>" + webFile)
	h.noted("web", "")
	h.sh("sed -i '1i# one more line' " + webFile + "; touch -d '+1 year' " + webFile)
	h.noted("web", "come to the same unit")
	h.file("/etc/ampoule/web.microvm.d/10.conf", "[MicroVM]\nMemory=999M\n")
	h.file("/etc/ampoule/web.microvm.d/20.conf", "[MicroVM]\nMemory=512M\n")
	h.noted("web", "web.microvm.d/10.conf:2: Memory= does not count: shadowed by /etc/ampoule/web.microvm.d/20.conf:2")
	h.sh("systemctl daemon-reload")
	h.noted("web", "web.microvm.d/10.conf:2: Memory= does not count: shadowed by /etc/ampoule/web.microvm.d/20.conf:2")
	h.sh("rm -r /etc/ampoule/web.microvm.d; dpkg --install /media/ampoule.deb", within(time.Minute))
	h.noted("web", "ampoule was replaced")

	h.file("/etc/ampoule/idle.microvm", vm("stay"))
	h.sh("systemctl daemon-reload")
	h.noted("idle", "")
	h.sh("ln -sf /dev/null /etc/ampoule/idle.microvm; systemctl daemon-reload")
	h.noted("idle", "idle is masked")
	h.sh("ln -sf /dev/null /etc/ampoule/web.microvm; systemctl daemon-reload")
	h.noted("web", "masked and runs on")

	h.file("/etc/ampoule/hand.microvm", vm("stay"))
	h.sh("systemctl daemon-reload; setsid ampoule run hand >/tmp/hand 2>&1 </dev/null &")
	h.eventually("ampoule status hand", says("by hand"))
	h.noted("hand", "hand was started by hand")
	h.sh("ampoule verify hand", says("nothing is broken", "not observed"))
	h.sh("ampoule stop hand", within(boots), ends)
	h.sh("setpriv --reuid=65534 --regid=65534 --clear-groups ampoule verify", not(secretValue))
}
