package emit

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// ShareUnit is the service of one share.
type ShareUnit struct {
	Name string
	Text []byte
}

// ShareUnits writes the services by which the shares of a VM are served, one for
// each: they are part of the VM's service, and a function of its plan.
func ShareUnits(s UnitSource) ([]ShareUnit, error) {
	var out []ShareUnit
	for _, sh := range s.Plan.VM.Served() {
		text, err := unitfile.Format([]unitfile.Block{
			{Comment: fmt.Sprintf("Made by ampoule %s. What is changed here is lost; change %s", s.Plan.Ampoule, legible(s.Main))},
			s.shareHead(sh), s.shareService(sh),
		})
		if err != nil {
			return nil, err
		}
		out = append(out, ShareUnit{spec.ShareUnitName(s.Plan.VM.Name, sh.Tag), text})
	}
	return out, nil
}

// KeptShares are those of a VM whose last good unit goes on.
func KeptShares(last []byte, program string) ([]ShareUnit, error) {
	p := PlanOf(last)
	if p == nil {
		return nil, nil // one that a drop-in has replaced; nothing is served by it
	}
	return ShareUnits(UnitSource{Plan: p, Main: p.Origin(plan.Whole).File, Program: program})
}

func (s UnitSource) why(sh plan.Share) string {
	return s.Plan.Origin(sh.From).String() + ", " + plan.KeyOf(sh.From) + "="
}

func (s UnitSource) shareHead(sh plan.Share) unitfile.Block {
	vm := cmp.Or(s.Service, spec.UnitName(s.Plan.VM.Name))
	entries := []unitfile.Entry{
		entry(s.why(sh), "Description", percent(fmt.Sprintf("Share %s of the microVM %s", sh.Tag, s.Plan.VM.Name))),
		entry("", "Documentation", "man:ampoule.microvm(5)"),
	}
	if s.Main == legible(s.Main) && strings.TrimSpace(s.Main) == s.Main {
		entries = append(entries, entry("", "SourcePath", percent(s.Main)))
	}
	return unitfile.Block{Name: "Unit", Entries: append(entries,
		entry("it starts before the VM, which wants it, and restarts and stops with it", "PartOf", vm),
		entry("", "Before", vm),
		entry("a VM that ended by itself leaves none behind", "StopWhenUnneeded", "yes"),
		entry("how often in a row is up to the VM, whatever its limit is", "StartLimitIntervalSec", "0"),
		entry("", "RequiresMountsFor", unitfile.QuoteWord(percent(sh.Source))),
	)}
}

// shareService runs virtiofsd as root, since files of all owners are served, with
// the rights to do just that. It locks itself into the directory.
func (s UnitSource) shareService(sh plan.Share) unitfile.Block {
	dir := plan.ShareDirectory(s.Plan.VM.Name, sh.Tag)
	closed := func(key, value string) unitfile.Entry { return entry("", key, value) }
	return unitfile.Block{Name: "Service", Entries: []unitfile.Entry{
		closed("Type", "notify"), closed("NotifyAccess", "main"),
		closed("ExecStart", s.program("unit share "+sh.Tag+" --plan=%d/"+rule.PlanName+" --digest="+s.Plan.Digest.VM)),
		closed("SyslogIdentifier", "microvm-share@"+s.Plan.VM.Name+":"+sh.Tag),
		closed("Slice", "machine.slice"),
		closed("TimeoutStopSec", "10s"),
		entry("virtiofsd takes SIGTERM for a failure, and systemd SIGINT for an order", "KillSignal", "SIGINT"),
		entry("the socket, which is given to the VM's user when the VM starts", "RuntimeDirectory", strings.TrimPrefix(dir, "/run/")),
		closed("RuntimeDirectoryMode", "0711"),
		entry("what is served, and stays it, whatever becomes of the path", bindKey(!sh.ReadOnly), optional(sh.Source)+":"+dir+"/d"),
		entry("the guest may have as many files open as it likes", "LimitNOFILE", "1048576"),
		entry("the guest's memory is mapped", "LimitCORE", "0"), closed("MemorySwapMax", "0"),
		entry("to serve files of all owners, and to lock itself in", "CapabilityBoundingSet", capabilities(sh.ReadOnly)),
		closed("AmbientCapabilities", ""), closed("NoNewPrivileges", "yes"),
		closed("ProtectSystem", "strict"), closed("PrivateMounts", "yes"), closed("PrivateDevices", "yes"), closed("DevicePolicy", "closed"),
		closed("PrivateNetwork", "yes"), closed("IPAddressDeny", "any"), closed("PrivateIPC", "yes"),
		closed("ProtectKernelTunables", "yes"), closed("ProtectKernelModules", "yes"), closed("ProtectKernelLogs", "yes"),
		closed("ProtectControlGroups", "yes"), closed("ProtectClock", "yes"), closed("ProtectHostname", "yes"),
		closed("ProtectProc", "invisible"),
		entry("not ProcSubset=pid: how many files may be open stands in /proc", "ProcSubset", "all"),
		closed("RestrictNamespaces", "yes"), closed("RestrictRealtime", "yes"),
		entry("a guest's file never runs on the host as its owner", "RestrictSUIDSGID", "yes"),
		closed("LockPersonality", "yes"), closed("MemoryDenyWriteExecute", "yes"), closed("RemoveIPC", "yes"), closed("KeyringMode", "private"),
		closed("RestrictAddressFamilies", "AF_UNIX"),
		closed("SystemCallArchitectures", "native"), closed("SystemCallFilter", "@system-service"),
		entry("it locks itself in", "SystemCallFilter", "chroot seccomp"),
		closed("SystemCallErrorNumber", "EPERM"), closed("UMask", "0077"),
		{Comment: "the plan of the VM", Key: "SetCredential", Value: rule.PlanName + ":", Text: s.json()},
	}}
}

// capabilities are those that virtiofsd is started with: beside what it keeps, to
// lock itself into the directory, and to give up what it does not keep. It makes
// no device nodes (CAP_MKNOD), and where nothing is written it needs but to read.
func capabilities(readOnly bool) string {
	keep := "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_SETGID CAP_SETUID"
	if readOnly {
		keep = "CAP_DAC_READ_SEARCH"
	}
	return keep + " CAP_SYS_CHROOT CAP_SETPCAP"
}

// shareDependencies are those of the VM's service: it waits for what serves its
// shares. Where that fails, the VM says so itself, with its line.
func (s UnitSource) shareDependencies() []unitfile.Entry {
	var units, sources []string
	for _, sh := range s.Plan.VM.Served() {
		units = append(units, spec.ShareUnitName(s.Plan.VM.Name, sh.Tag))
	}
	for _, sh := range s.Plan.VM.Shares {
		needed := sh.Source
		if sh.Socket != "" {
			needed = sh.Socket
		}
		sources = append(sources, unitfile.QuoteWord(percent(needed)))
	}
	var out []unitfile.Entry
	if len(units) > 0 {
		out = append(out, entry("what serves its shares", "Wants", strings.Join(units, " ")), entry("", "After", strings.Join(units, " ")))
	}
	if len(sources) > 0 {
		out = append(out, entry("", "RequiresMountsFor", strings.Join(sources, " ")))
	}
	return out
}

// shares opens the directories that the hypervisor serves by itself, and the sockets
// where others serve them.
func (s UnitSource) shares() []unitfile.Entry {
	var out []unitfile.Entry
	seen := false
	for _, sh := range s.Plan.VM.Shares {
		if sh.Socket != "" {
			// One can be connected to wherever it is visible, read-only or not.
			out = append(out, entry(s.why(sh), bindKey(false), optional(sh.Socket)))
		}
		if sh.Protocol != spec.NineP {
			continue
		}
		if !seen {
			seen = true
			out = append(out, entry(s.why(sh)+", of which the guest sees the files' owners: in a user namespace they are nobody's", "PrivateUsers", "no"))
		}
		// Where it is not there, ampoule says so.
		out = append(out, entry(s.why(sh), bindKey(!sh.ReadOnly), optional(sh.Source)))
	}
	return out
}
