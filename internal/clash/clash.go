// Package clash finds what two VMs of one host cannot both have: a disk that one of
// them writes, a number, an interface, an address, a port, a device. It compares
// plans, and so what the files say; whether the other VM runs is not its affair.
//
// The package is pure.
package clash

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// claim is something of the host that a VM has.
type claim struct {
	// kind and what tell it from others; of two that are equal in both only one can
	// be, unless both are shared.
	kind, what string
	shared     bool
	// address is the host's, for a port.
	address string
	// from is the assignment behind it, shown its value.
	from, shown string
}

// The kinds, as a message names them.
const (
	disk      = "disk"
	number    = "number on the host's vsock"
	iface     = "interface"
	link      = "interface below it"
	mac       = "MAC address"
	published = "port of the host"
	device    = "device"
)

// Find returns an error for each line of a VM that asks for what a line of another
// asks for too. Plans of the VM's own name are passed over.
func Find(p *plan.Plan, others []*plan.Plan) (problems diag.List) {
	own := claims(p)
	for _, other := range others {
		if other.VM.Name == p.VM.Name {
			continue
		}
		theirs := claims(other)
		for _, c := range own {
			for _, o := range theirs {
				if c.meets(o) {
					problems.Errorf(p.Origin(c.from), plan.KeyOf(c.from), c.shown, cure(c),
						"the VM %s has the same %s (%s)%s", other.VM.Name, c.kind, other.Origin(o.from), c.detail(o))
					break // one line of the other is enough
				}
			}
		}
	}
	problems.Sort()
	return problems
}

// meets reports whether two claims exclude each other.
func (c claim) meets(o claim) bool {
	if c.kind != o.kind || c.what != o.what || c.shared && o.shared {
		return false
	}
	return c.kind != published || overlap(c.address, o.address)
}

// overlap reports whether a socket at one address of the host is in the way of one
// at the other. The empty one is all of IPv4.
func overlap(a, b string) bool {
	const all4, all6 = "0.0.0.0", "::"
	if a == "" {
		a = all4
	}
	if b == "" {
		b = all4
	}
	six := func(s string) bool { return strings.Contains(s, ":") }
	return a == b || six(a) == six(b) && (a == all4 || b == all4 || a == all6 || b == all6)
}

// detail says who writes a disk that not both write.
func (c claim) detail(o claim) string {
	switch {
	case c.kind != disk:
		return ""
	case c.shared:
		return " and writes it"
	case o.shared:
		return ", and this one writes it"
	}
	return ""
}

func cure(c claim) string {
	switch c.kind {
	case disk:
		return "accepted: another disk, or ro in both"
	case number:
		return "accepted: auto, or a number of its own"
	case iface:
		return "accepted: a name of its own, or none"
	case link:
		return "accepted: an interface of its own, or another mode than passthru in both"
	case mac:
		return "accepted: an address of its own, or none: then it is made of the VM's name"
	case published:
		return "accepted: another port, or another address of the host"
	}
	return "accepted: a device of its own"
}

// claims are all that a VM has of its host.
func claims(p *plan.Plan) []claim {
	var out []claim
	for _, d := range p.VM.Disks {
		where := d.Path
		if !path.IsAbs(where) {
			where = path.Join(spec.SystemPaths.State, "ampoule/vm", p.VM.Name, where)
		}
		out = append(out, claim{kind: disk, what: path.Clean(where), shared: d.ReadOnly, from: d.From, shown: d.Path})
	}
	if v := p.VM.VSock; v != nil && !v.Multiplexed && v.CID != 0 {
		cid := strconv.FormatInt(v.CID, 10)
		out = append(out, claim{kind: number, what: cid, from: "VSockCID", shown: cid})
	}
	for _, n := range p.VM.Networks {
		out = append(out, networkClaims(n)...)
	}
	for _, port := range p.VM.Ports {
		out = append(out, claim{
			kind: published, what: fmt.Sprintf("%d/%s", port.Host, port.Protocol), address: port.Address, from: port.From, shown: shownPort(port),
		})
	}
	for _, d := range p.VM.Devices {
		out = append(out, claim{kind: device, what: d.Bus + ":" + d.Address, from: d.From, shown: d.String()})
	}
	return out
}

// networkClaims are those of an interface. A user network is the hypervisor's own,
// addresses included.
func networkClaims(n plan.Network) []claim {
	if n.Kind == plan.UserNetwork {
		return nil
	}
	out := []claim{{kind: mac, what: n.MAC, from: n.From, shown: n.Kind + ":mac=" + n.MAC}}
	if n.Name != "" {
		out = append(out, claim{kind: iface, what: n.Name, from: n.From, shown: n.Kind + ":" + n.Name})
	}
	if n.Link != "" {
		out = append(out, claim{kind: link, what: n.Link, shared: n.Mode != "passthru", from: n.From, shown: n.Kind + ":" + n.Link})
	}
	return out
}

func shownPort(p plan.Port) string {
	text := fmt.Sprintf("%d:%d/%s", p.Host, p.Guest, p.Protocol)
	switch {
	case p.Address == "":
		return text
	case strings.Contains(p.Address, ":"):
		return "[" + p.Address + "]:" + text
	}
	return p.Address + ":" + text
}
