package run

import (
	"net"
	"net/netip"
	"strconv"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// judgePorts refuses a published port that cannot be had on this host. A hypervisor
// says as much when it starts, and not of which line it speaks.
func (r *runner) judgePorts(problems *diag.List) {
	for i := range r.Plan.VM.Ports {
		p := &r.Plan.VM.Ports[i]
		if err := tryPort(p); err != nil {
			problems.Errorf(r.Plan.Origin(p.From), plan.KeyOf(p.From), diag.Elided, "accepted: a port that nobody listens at, and that the VM's user may have",
				"port %d (%s) of this host cannot be published: %v", p.Host, p.Protocol, err)
		}
	}
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
