package spec

import (
	"net"
	"strconv"
	"strings"
	"testing"
)

// TestParseNetwork: what a line says, and what the VM's name and the number of the
// network make of it.
func TestParseNetwork(t *testing.T) {
	for value, want := range map[string]Network{
		"user":                       {Kind: "user"},
		"user:mtu=1400":              {Kind: "user", MTU: 1400},
		"user:mac=02-":               {},
		"tap":                        {Kind: "tap", Name: "vm1-web", Queues: 1, VHost: "auto"},
		"tap:name=lan0,queues=4":     {Kind: "tap", Name: "lan0", Named: true, Queues: 4, VHost: "auto"},
		"bridge:br0,vhost=no":        {Kind: "bridge", Parent: "br0", Name: "vm1-web", Queues: 1, VHost: "no"},
		"macvtap:eth0":               {Kind: "macvtap", Parent: "eth0", Name: "vm1-web", Queues: 1, VHost: "auto", Mode: "bridge"},
		"macvtap:eth0,mode=passthru": {Kind: "macvtap", Parent: "eth0", Name: "vm1-web", Queues: 1, VHost: "auto", Mode: "passthru"},
		"tap:name=lan0,external":     {Kind: "tap", Name: "lan0", Named: true, Queues: 1, VHost: "auto", External: true},
		"macvtap:eth0,external,name=lan0,mac=02:1f:01:da:37:9e": {Kind: "macvtap", Parent: "eth0", Name: "lan0", Named: true, Queues: 1, VHost: "auto", External: true},
	} {
		n, err := ParseNetwork(value)
		if want.Kind == "" {
			if err == nil {
				t.Errorf("%s is taken", value)
			}
			continue
		}
		n.complete("web", 1)
		// printf web/1 | sha256sum
		want.MAC = "02:1f:01:da:37:9e"
		if err != nil || n != want {
			t.Errorf("%s: %+v, %v, want %+v", value, n, err, want)
		}
	}
	for value, want := range map[string]string{
		"":                                 "not a kind",
		"lan":                              "not a kind",
		"user:":                            "an option is empty",
		"user:name=x":                      "the option name is not for user",
		"user:queues=2":                    "the option queues is not for user",
		"user:vhost=no":                    "the option vhost is not for user",
		"user:mtu=1501":                    "mtu=: more than 1500; accepted: 1280 to 1500",
		"user:mac":                         "the option mac has no value",
		"user:mac=02:00:00:00:00:01,mac=x": "the option mac stands twice",
		"user:zone=1":                      `unknown option "zone"`,
		"tap:mode=vepa":                    "the option mode is not for tap",
		"tap:mtu=1279":                     "mtu=: less than 1280; accepted: 1280 to 65521",
		"tap:queues=65":                    "queues=: more than 64; accepted: 1 to 64",
		"tap:vhost=on":                     "vhost=: not one of the accepted words; accepted: auto, yes, no",
		"tap:name=":                        "is empty",
		"tap:name=abcdefghijklmnop":        "16 bytes, and Linux takes 15",
		"bridge":                           "it does not say which interface",
		"bridge:":                          "it does not say which interface",
		"bridge:br%d":                      "a character that is not for one",
		"macvtap:..":                       "not the name of an interface",
		"user:external":                    "the option external is not for user",
		"tap:name=lan0,external=yes":       "the option external has no value",
		"tap:external":                     "external: it does not say which interface; accepted: name=INTERFACE beside it",
		"bridge:br0,name=lan0,external":    "whoever makes the interface also attaches it to a bridge; accepted: tap:name=INTERFACE,external",
		"macvtap:eth0,external,name=lan0":  "the line does not say which that is; accepted: mac=MAC beside it",
		"macvtap:eth0,external,name=lan0,mode=vepa,mac=02:00:00:00:00:01": "mode= is up to whoever makes the interface",
		"macvtap:eth0,mode=l2": "mode=: not one of the accepted words",
	} {
		if _, err := ParseNetwork(value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", value, err, want)
		}
	}
}

func TestParseMAC(t *testing.T) {
	for value, want := range map[string]string{
		"02:00:00:00:00:01": "02:00:00:00:00:01", "52:54:00:AB:cd:EF": "52:54:00:ab:cd:ef",
		"01:00:5e:00:00:01": "multicast", "ff:ff:ff:ff:ff:ff": "multicast", "00:00:00:00:00:00": "zeros",
		"02-00-00-00-00-01": "not a MAC", "0200.0000.0001": "not a MAC", "02:00:00:00:00": "not a MAC", "": "not a MAC",
		"02:00:00:00:00:00:00:01": "not a MAC",
	} {
		mac, err := ParseMAC(value)
		if err != nil {
			mac = err.Error()
		}
		if !strings.Contains(mac, want) {
			t.Errorf("%s: %s, want %s", value, mac, want)
		}
	}
}

// TestNames: derived names are short enough for Linux, and no two networks of all
// VMs have one.
func TestNames(t *testing.T) {
	seenNames, seenMACs := map[string]string{}, map[string]string{}
	long := strings.Repeat("x", MaxName)
	for _, vm := range []string{"a", "web", "web-1", "1-web", "a_b", "a.b", "elevenbytes", "twelve-bytes", "twelve-bytez", long, long[1:], long[2:] + "y"} {
		for i := range 30 {
			n := Network{Kind: "tap"}
			n.complete(vm, i)
			if err := CheckInterface(n.Name); err != nil {
				t.Errorf("%s/%d: %s: %v", vm, i, n.Name, err)
			}
			mac, err := net.ParseMAC(n.MAC)
			if err != nil || mac[0]&3 != 2 {
				t.Errorf("%s/%d: %s is not local, or not of one station: %v", vm, i, n.MAC, err)
			}
			who := vm + "/" + strconv.Itoa(i)
			if other := seenNames[n.Name] + seenMACs[n.MAC]; other != "" {
				t.Errorf("%s and %s are both %s, %s", who, other, n.Name, n.MAC)
			}
			seenNames[n.Name], seenMACs[n.MAC] = who, who
		}
	}
	for want, n := range map[string]Network{"vm0-elevenbytes": {Kind: "elevenbytes"}, "vm0_twelv": {Kind: "twelve-bytes"}} {
		vm := n.Kind
		if n.complete(vm, 0); !strings.HasPrefix(n.Name, want) {
			t.Errorf("%s: %s, want %s", vm, n.Name, want)
		}
	}
}

func TestParsePorts(t *testing.T) {
	for value, want := range map[string]string{
		"8080:80": ":8080:80*1/tcp", "8080:80/udp": ":8080:80*1/udp", "127.0.0.1:8080:80/tcp": "127.0.0.1:8080:80*1/tcp",
		"[::1]:8080:80": "::1:8080:80*1/tcp", "8000-8009:80-89": ":8000:80*10/tcp", "65535:65535": ":65535:65535*1/tcp",
	} {
		p, err := ParsePorts(value)
		address := ""
		if p.Address.IsValid() {
			address = p.Address.String()
		}
		got := address + ":" + strconv.Itoa(p.Host) + ":" + strconv.Itoa(p.Guest) + "*" + strconv.Itoa(p.Count) + "/" + p.Protocol
		if err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", value, got, err, want)
		}
	}
	for value, want := range map[string]string{
		"80": "does not say the port of this host", ":80": "does not say the port of this host", "127.0.0.1::80": "does not say the port of this host",
		"0:80": "the port of this host: not a number", "80:65536": "the guest's port: not a number", "80:+1": "the guest's port", "80:": "the guest's port",
		"80:80/sctp": "neither tcp nor udp", "80:80/": "neither tcp nor udp", "::1:80:80": "in brackets", "[::1:80:80": "not an address",
		"[127.0.0.1]:80:80": "in brackets, and no other", "host:80:80": "not an address", "[fe80::1%eth0]:80:80": "not an address of this host",
		"224.0.0.1:80:80": "not an address of this host", "1-3:1-2": "3 ports of this host, and 2", "3-1:3-1": "the last is before",
	} {
		if _, err := ParsePorts(value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", value, err, want)
		}
	}
}

// TestOverlaps: two lines that want one port of the host.
func TestOverlaps(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"80:1", "80:2", true}, {"80:1", "80:1/udp", false}, {"80-90:80-90", "90-91:1-2", true}, {"80-89:80-89", "90:1", false},
		{"127.0.0.1:80:1", "127.0.0.2:80:1", false}, {"127.0.0.1:80:1", "80:2", true}, {"0.0.0.0:80:1", "127.0.0.1:80:2", true},
		{"[::1]:80:1", "127.0.0.1:80:1", false}, {"[::]:80:1", "[::1]:80:1", true}, {"[::1]:80:1", "80:1", false},
	} {
		a, _ := ParsePorts(c.a)
		b, _ := ParsePorts(c.b)
		if a.overlaps(&b) != c.want || b.overlaps(&a) != c.want {
			t.Errorf("%s and %s: want %v", c.a, c.b, c.want)
		}
	}
}
