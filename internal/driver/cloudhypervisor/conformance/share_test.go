package conformance

import (
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// vhostUser answers what a hypervisor asks before the guest's driver is there: the
// features, and how many queues there may be.
func vhostUser(conn io.ReadWriteCloser) {
	defer conn.Close()
	const (
		getFeatures         = 1
		getProtocolFeatures = 15
		getQueueNum         = 17
		isReply             = 1 | 1<<2 // and version 1
		needsReply          = 1 << 3
	)
	answers := map[uint32]uint64{getFeatures: 1<<30 | 1<<32, getProtocolFeatures: 1, getQueueNum: 2}
	le := binary.LittleEndian
	for {
		head := make([]byte, 12)
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, conn, int64(le.Uint32(head[8:]))); err != nil {
			return
		}
		value, asked := answers[le.Uint32(head)]
		if !asked && le.Uint32(head[4:])&needsReply == 0 {
			continue
		}
		out := le.AppendUint32(nil, le.Uint32(head))
		out = le.AppendUint32(out, isReply)
		out = le.AppendUint32(out, 8)
		if _, err := conn.Write(le.AppendUint64(out, value)); err != nil {
			return
		}
	}
}

// TestShares: the socket is connected to at every boot anew, which is a second
// connection while nobody has told the first that it is over.
func TestShares(t *testing.T) {
	for _, p := range programs(t) {
		t.Run(p.name, func(t *testing.T) {
			r := start(t, p)
			writeKernel(t, r.dir, codeLoop, true)
			listener := must(net.Listen("unix", r.dir+"/fs"))(t)
			defer listener.Close()
			var connections atomic.Int32
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					connections.Add(1)
					go vhostUser(conn)
				}
			}()
			r.says(r.ask("PUT", "vm.create", []byte(boots(memoryOf(`"shared":true`), `"fs":[{"tag":"t","socket":"fs"}]`))), 204, "")
			r.says(r.ask("PUT", "vm.boot", nil), 204, "")
			r.says(r.ask("GET", "vm.info", nil), 200, `"fs":\[\{"id":"_fs0","pci_segment":0,"tag":"t","socket":"fs","num_queues":1,"queue_size":1024\}\]`)
			r.says(r.ask("PUT", "vm.reboot", nil), 204, "")
			// What is connected is accepted in its time.
			r.await("a connection for each boot", func() bool { return connections.Load() == 2 })
			r.says(r.ask("PUT", "vmm.shutdown", nil), 200, "")
			r.exit()
		})
	}
}

// TestTakenMemory: the stand-in's guest can obey; that of machine code cannot.
func TestTakenMemory(t *testing.T) {
	p := programs(t)[0]
	r := start(t, p)
	writeKernel(t, r.dir, codeLoop, true)
	r.says(r.ask("PUT", "vm.create", []byte(boots(memoryOf(`"hotplug_method":"VirtioMem","hotplug_size":134217728`), `"balloon":{"size":0}`,
		`"payload":{"kernel":"kernel","cmdline":"fake.guest=take-memory,say:taken"}`, `"serial":{"mode":"Tty"}`))), 204, "")
	r.says(r.ask("PUT", "vm.boot", nil), 204, "")
	r.awaitFrom("console:\ntaken", 0) // and not the command line, which has the word too
	r.says(r.ask("PUT", "vm.resize", []byte(ram(128*mib))), 204, "")
	r.says(r.ask("GET", "vm.info", nil), 200, `"memory_actual_size":134217728,`)
	r.says(r.ask("PUT", "vm.resize", []byte(`{"desired_balloon":4194304}`)), 204, "")
	r.says(r.ask("GET", "vm.info", nil), 200, `"memory_actual_size":130023424,`)
	r.says(r.ask("PUT", "vmm.shutdown", nil), 200, "")
	r.exit()
}
