package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/ampoule-vm/ampoule/internal/console"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// orderTime is how long a client of the socket may take, and maxOrder how long an
// order and its answer may be, in bytes. orderPatience is how long the hypervisor
// may take, far more than it ever should: a request that is given up takes the
// connection along, and with it the power button.
const (
	orderTime     = 5 * time.Second
	maxOrder      = 16 << 10
	orderPatience = time.Minute
)

// call is what travels to a run on its socket, and answer what comes back: JSON,
// one of each on a connection. Nothing of the VM can be read there but what
// is in an answer.
type call struct {
	// Memory asks for how much there is, and Set orders how much there is to be, in
	// bytes; 0 orders nothing.
	Memory bool  `json:"memory"`
	Set    int64 `json:"set_bytes,omitempty"`
}

type answer struct {
	Memory *Memory `json:"memory,omitempty"`
	// Refused is why nothing came of it.
	Refused string `json:"refused,omitempty"`
}

// takeOrders serves the socket on which a guest that runs is changed, where there
// is something to change. A guest can do without.
func (g *guest) takeOrders() {
	vm := &g.Plan.VM
	if vm.Resize == nil || g.dirs.Runtime == "" {
		return
	}
	l, err := listenAt(g.dirs.Runtime, state.OrdersName)
	if err != nil {
		g.warn("%s: ampoule memory cannot connect: making its socket in %s: %v", vm.Name, g.dirs.Runtime, err)
		return
	}
	g.record.Orders = filepath.Join(g.dirs.Runtime, state.OrdersName)
	g.links.closers, g.links.removed = append(g.links.closers, l), append(g.links.removed, g.record.Orders)
	go serveOrders(l, newMemory(vm, g.control()))
}

// serveOrders carries them out one after the other, until the socket is closed.
func serveOrders(l *net.UnixListener, m *memory) {
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Second) // out of descriptors, most likely
			continue
		}
		serveOrder(conn, m)
		conn.Close()
	}
}

func serveOrder(conn *net.UnixConn, m *memory) {
	// The socket's mode says the same, and can be changed by whoever owns it.
	if uid, err := console.PeerUID(conn); err != nil || uid != 0 && uid != os.Geteuid() {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(orderTime))
	var c call
	if json.NewDecoder(io.LimitReader(conn, maxOrder)).Decode(&c) != nil || !c.Memory {
		return // no order of ours
	}
	ctx, cancel := context.WithTimeout(context.Background(), orderPatience)
	defer cancel()
	var a answer
	var err error
	if c.Set != 0 {
		err = m.set(ctx, c.Set)
	}
	if err == nil {
		var now Memory
		if now, err = m.look(ctx); err == nil {
			a.Memory = &now
		}
	}
	if err != nil {
		a.Refused = diag.Printable(err.Error(), maxWords)
	}
	_ = conn.SetDeadline(time.Now().Add(orderTime))
	_ = json.NewEncoder(conn).Encode(a)
}

// AskMemory asks a VM that runs how much memory its guest has, and first, unless set
// is 0, to have so much, in bytes.
func AskMemory(ctx context.Context, i state.Instance, set int64) (Memory, error) {
	switch {
	case i.Record == nil:
		return Memory{}, ErrNotBooted
	case i.Record.Orders == "":
		return Memory{}, ErrMemoryFixed
	}
	conn, err := dialOwn(i, state.OrdersName)
	if errors.Is(err, fs.ErrNotExist) {
		return Memory{}, errors.New("it has ended")
	}
	if err != nil {
		return Memory{}, err
	}
	defer conn.Close()
	// Whoever is before us has its time too.
	_ = conn.SetDeadline(time.Now().Add(orderPatience + 3*orderTime))
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	var a answer
	err = json.NewEncoder(conn).Encode(call{Memory: true, Set: set})
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, maxOrder)).Decode(&a)
	}
	switch {
	case ctx.Err() != nil:
		return Memory{}, ctx.Err()
	case err != nil:
		return Memory{}, fmt.Errorf("it gives no answer: %w", err)
	case a.Refused != "":
		return Memory{}, errors.New(diag.Printable(a.Refused, maxOrder))
	case a.Memory == nil:
		return Memory{}, errors.New("its answer says nothing")
	}
	return *a.Memory, nil
}
