package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Memory is what there is to say of a running guest's memory, in bytes.
type Memory struct {
	// Configured is Memory=, Addable what MemoryHotplug= can add to it; with
	// Balloon some of it can be taken.
	Configured int64 `json:"configured_bytes"`
	Addable    int64 `json:"addable_bytes"`
	Balloon    bool  `json:"balloon"`
	// Asked is how much the guest was last asked to have, and Now what it has. It
	// takes its time, and may not do it at all.
	Asked int64 `json:"asked_bytes"`
	Now   int64 `json:"now_bytes"`
}

// memory is the guest's. It belongs to whoever serves orders.
type memory struct {
	vm      *plan.VM
	control hypervisor
	asked   plan.Amounts
}

func newMemory(vm *plan.VM, control hypervisor) *memory {
	return &memory{vm: vm, control: control, asked: vm.For(vm.Memory)}
}

// ErrMemoryFixed is for a VM with neither device.
var ErrMemoryFixed = errors.New("its memory cannot be changed while it runs: add Balloon=yes to [MicroVM], to take some, or MemoryHotplug=SIZE, to add some, and start it anew")

// refuse says why a guest cannot be asked to have so much.
func (m *memory) refuse(bytes int64) error {
	r, size := m.vm.Resize, spec.FormatSize
	most := m.vm.Memory + m.vm.MemoryHotplug
	added := bytes - m.vm.Memory
	switch {
	case bytes == m.vm.Memory:
		return nil
	case added > 0 && r.Add == nil:
		return fmt.Errorf("%s is more than Memory=%s, and nothing can be added: add MemoryHotplug=SIZE to [MicroVM], and start it anew", size(bytes), size(m.vm.Memory))
	case added > m.vm.MemoryHotplug:
		return fmt.Errorf("%s is too much: Memory=%s and MemoryHotplug=%s come to at most %s", size(bytes), size(m.vm.Memory), size(m.vm.MemoryHotplug), size(most))
	case added > 0 && added%r.Step != 0:
		return fmt.Errorf("%s is Memory=%s and %s, which is not in whole steps of %s", size(bytes), size(m.vm.Memory), size(added), size(r.Step))
	case added < 0 && r.Balloon == nil:
		return fmt.Errorf("%s is less than Memory=%s, and nothing can be taken: add Balloon=yes to [MicroVM], and start it anew", size(bytes), size(m.vm.Memory))
	case bytes < spec.MinMemory:
		return fmt.Errorf("%s is less than a Linux guest runs with; accepted: at least %s", size(bytes), size(spec.MinMemory))
	case bytes%(1<<20) != 0:
		return fmt.Errorf("%d bytes are not a whole number of MiB", bytes)
	}
	return nil
}

// set asks the guest to have so much. Only what changes is ordered: a hypervisor
// can refuse to be told what it knows.
func (m *memory) set(ctx context.Context, bytes int64) error {
	if err := m.refuse(bytes); err != nil {
		return err
	}
	wanted := m.vm.For(bytes)
	for _, order := range []struct {
		lever *plan.Lever
		from  *int64
		to    int64
	}{{m.vm.Resize.Balloon, &m.asked.Taken, wanted.Taken}, {m.vm.Resize.Add, &m.asked.Added, wanted.Added}} {
		if order.lever == nil || *order.from == order.to {
			continue
		}
		// The request has what is asked of this device, and what was of the other.
		next := m.asked
		if order.from == &m.asked.Taken {
			next.Taken = order.to
		} else {
			next.Added = order.to
		}
		if err := m.control.request(ctx, order.lever.Command(next), func([]byte) error { return nil }); err != nil {
			return fmt.Errorf("the hypervisor does not do it: %w", err)
		}
		m.asked = next
	}
	return nil
}

// look reads what the guest has.
func (m *memory) look(ctx context.Context) (Memory, error) {
	now := plan.Amounts{Memory: m.vm.Memory}
	out := Memory{
		Configured: m.vm.Memory, Addable: m.vm.MemoryHotplug, Balloon: m.vm.Balloon,
		Asked: m.asked.Of(plan.Has),
	}
	for i := range m.vm.Resize.Gauges {
		g := &m.vm.Resize.Gauges[i]
		var n int64
		err := m.control.request(ctx, g.Request, func(answer []byte) (err error) {
			n, err = amountIn(answer, g.At)
			return err
		})
		if err != nil {
			return out, fmt.Errorf("asking the hypervisor what the guest has: %w", err)
		}
		switch n *= g.Unit; g.Counts {
		case plan.Taken:
			now.Taken = n
		case plan.Left:
			now.Taken = m.vm.Memory - n
		case plan.Added:
			now.Added = n
		case plan.Total:
			now.Added = n - m.vm.Memory
		case plan.Has: // of all that makes it up only the sum is known
			now.Added = n - m.vm.Memory
		}
	}
	out.Now = now.Of(plan.Has)
	return out, nil
}

// amountIn finds a number in an answer: the answer itself, or its member at a JSON
// pointer. The rest can be secret, and is read into nothing.
func amountIn(answer []byte, at string) (int64, error) {
	number := reflect.TypeFor[*int64]()
	name, isMember := strings.CutPrefix(at, "/")
	target := reflect.New(number)
	if isMember {
		target = reflect.New(reflect.StructOf([]reflect.StructField{{Name: "Amount", Type: number, Tag: reflect.StructTag(`json:"` + name + `"`)}}))
	}
	// An error of the decoder can quote what it has read.
	if err := json.Unmarshal(answer, target.Interface()); err != nil {
		return 0, errors.New("its answer does not have the form that was expected")
	}
	value := target.Elem()
	if isMember {
		value = value.Field(0)
	}
	if value.IsNil() {
		return 0, errors.New("its answer has no amount")
	}
	return value.Elem().Int(), nil
}
