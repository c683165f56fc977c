package run

import (
	"net"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// TestPortsInUse: each port that somebody has is named, and no other.
func TestPortsInUse(t *testing.T) {
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	taken, other := tcp.Addr().(*net.TCPAddr).Port, udp.LocalAddr().(*net.UDPAddr).Port
	ports := []plan.Port{
		{Address: "127.0.0.1", Host: taken, Protocol: "tcp", From: "PublishPort"},
		{Host: taken, Protocol: "tcp", From: "PublishPort"},
		{Address: "127.0.0.1", Host: other, Protocol: "udp", From: "PublishPort"},
		{Address: "127.0.0.2", Host: taken, Protocol: "tcp", From: "PublishPort"},
	}
	var problems diag.List
	r := &runner{Options: Options{Plan: &plan.Plan{VM: plan.VM{Ports: ports}}}}
	r.judgePorts(&problems)
	if len(problems) != 3 || strings.Count(problems.Error(), "address already in use") != 3 || strings.Count(problems.Error(), "(udp)") != 1 {
		t.Errorf("%v", problems)
	}
}
