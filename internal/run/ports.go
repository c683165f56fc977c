package run

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// judgePorts refuses a published port that cannot be had on this host. A hypervisor
// says as much when it starts, and not of which line it speaks. Where a VM that runs
// is checked, the ports that it has are no others'.
func (r *runner) judgePorts(problems *diag.List) {
	var own []plan.Port
	if r.checking && len(r.Plan.VM.Ports) > 0 {
		own = r.portsInUse()
	}
	for i := range r.Plan.VM.Ports {
		p := &r.Plan.VM.Ports[i]
		err := tryPort(p)
		if err == nil || errors.Is(err, syscall.EADDRINUSE) && slices.ContainsFunc(own, func(o plan.Port) bool { return o.Address == p.Address && o.Host == p.Host && o.Protocol == p.Protocol }) {
			continue
		}
		problems.Errorf(r.Plan.Origin(p.From), plan.KeyOf(p.From), p.String(), "accepted: a port that nobody listens at, and that the VM's user may have",
			"port %d (%s) of this host cannot be published: %v", p.Host, p.Protocol, err)
	}
}

// portsInUse are those that the VM publishes already, if it runs.
func (r *runner) portsInUse() []plan.Port {
	for _, dir := range []string{r.dirs.Runtime, r.dirs.Other} {
		if dir == "" {
			continue
		}
		if i, ok := state.Look(dir); !ok || !i.Running {
			continue
		}
		text, err := state.ReadPlan(dir, plan.MaxBytes)
		if err != nil {
			continue
		}
		if running, err := plan.Parse(text); err == nil {
			return running.VM.Ports
		}
	}
	return nil
}

// tryPort takes the port for a moment.
func tryPort(p *plan.Port) error {
	address := netip.IPv4Unspecified().String()
	if p.Address != "" {
		address = p.Address
	}
	at := net.JoinHostPort(address, strconv.Itoa(p.Host))
	if p.Protocol == "udp" {
		conn, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	return l.Close()
}
