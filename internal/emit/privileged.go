package emit

import (
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// privilegedReason names the lines for which root has something to do.
func (s UnitSource) privilegedReason() string {
	var why []string
	for _, id := range s.Plan.VM.Privileged() {
		why = append(why, s.Plan.Origin(id).String()+", "+plan.KeyOf(id)+"=;")
	}
	return strings.Join(why, " ")
}

// notifyAccess says who may tell the service manager something: what root does
// before the start has it keep open files.
func (s UnitSource) notifyAccess() []unitfile.Entry {
	if len(s.Plan.VM.Privileged()) == 0 {
		return []unitfile.Entry{entry("", "NotifyAccess", "main")}
	}
	most := 1 // what is wrong
	for _, h := range s.Plan.VM.Needs() {
		if !h.Own {
			most += h.Most
		}
	}
	return []unitfile.Entry{
		entry("what is opened for the VM by root, before the start, systemd hands to ampoule run", "NotifyAccess", "exec"),
		entry("", "FileDescriptorStoreMax", strconv.Itoa(most)),
	}
}

// privileged has root do what the VM's user may not: behind the user's hooks,
// which may make what it takes. Own: the user's command takes the place of ampoule
// run, and would not say why root could not.
func (s UnitSource) privileged(own bool) []unitfile.Entry {
	var out []unitfile.Entry
	if why := s.privilegedReason(); why != "" {
		arguments := "unit prepare --plan=%d/" + rule.PlanName + " --digest=" + s.Plan.Digest.VM
		if own {
			arguments += " --refuse"
		}
		out = append(out, entry("by root, from the plan alone: "+strings.TrimSuffix(why, ";"), "ExecStartPre", "+"+s.program(arguments)))
	} else if !s.Prepared {
		return nil
	}
	return append(out, entry("and what is left of it when the VM has ended", "ExecStopPost", "-+"+s.program(undo+s.Plan.VM.Name)))
}

const undo = "unit undo "

// Undoes reports whether a line is the ExecStopPost= that removes what root made
// for a VM. It stays in the unit of one that runs, whatever its files say by then.
func Undoes(key, value string) bool {
	return key == "ExecStopPost" && strings.HasPrefix(value, "-+") && strings.Contains(value, " "+undo)
}

// interfaces opens the devices by which root makes the guest's interfaces: the
// limits of a unit are those of its ExecStartPre=+ too. The VM's user comes to
// nothing by them.
func (s UnitSource) interfaces() []unitfile.Entry {
	var out []unitfile.Entry
	seen := map[string]bool{}
	allow := func(n *plan.Network, device string) {
		if !seen[device] {
			seen[device] = true
			out = append(out, entry(s.Plan.Origin(n.From).String()+", "+plan.KeyOf(n.From)+"=; for root, before the start", "DeviceAllow", device+" rw"))
		}
	}
	for i := range s.Plan.VM.Networks {
		n := &s.Plan.VM.Networks[i]
		if !n.Made() || n.ByName {
			continue
		}
		for _, device := range interfaceDevices(n) {
			allow(n, device)
		}
	}
	return out
}

// interfaceDevices are the devices by which an interface is opened, as DeviceAllow=
// names them.
func interfaceDevices(n *plan.Network) []string {
	devices := []string{"/dev/net/tun"}
	if n.Kind == plan.MacVTap {
		devices[0] = "char-macvtap"
	}
	if n.VHost != "no" && !n.ByName {
		devices = append(devices, "/dev/vhost-net")
	}
	return devices
}

// macvtaps names the first line that asks for one, or is empty.
func (s UnitSource) macvtaps() string {
	for _, n := range s.Plan.VM.Networks {
		if n.Kind == plan.MacVTap {
			return s.Plan.Origin(n.From).String() + ", " + plan.KeyOf(n.From) + "="
		}
	}
	return ""
}
