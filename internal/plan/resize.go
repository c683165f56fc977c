package plan

import (
	"fmt"
	"slices"
	"strconv"
)

// Resize is how the memory of a guest that runs is changed; nil where it cannot
// be.
type Resize struct {
	// Step is what an amount to add is a multiple of, in bytes.
	Step int64 `json:"step"`
	// Add plugs some of what can be added, and Balloon takes some of the memory;
	// nil where the VM has no such device.
	Add     *Lever `json:"add,omitempty"`
	Balloon *Lever `json:"balloon,omitempty"`
	// Gauges tell what the guest has.
	Gauges []Gauge `json:"gauges"`
}

// Lever is an order with a place for an amount, which asks for AskAmount.
type Lever struct {
	Request Request  `json:"request"`
	Counts  Quantity `json:"counts"`
	// Unit is what is counted in, in bytes.
	Unit int64 `json:"unit"`
}

// Gauge is a question that is answered with an amount.
type Gauge struct {
	Request Request `json:"request"`
	// At is the member of the answer that has it, a JSON pointer; empty where the
	// answer is the amount.
	At     string   `json:"pointer,omitempty"`
	Counts Quantity `json:"counts"`
	Unit   int64    `json:"unit"`
}

// Execute is the method of a request that is a command of QMP: its path is the
// command's name, and its body the arguments.
const Execute = "EXECUTE"

// AskAmount is the amount of an order, a number.
const AskAmount Question = "amount"

// Quantity says what an amount is one of.
type Quantity string

// The quantities.
const (
	// Taken is what the balloon has, and Left the memory without that.
	Taken Quantity = "taken"
	Left  Quantity = "left"
	// Added is what was added to the memory, and Total the memory with that.
	Added Quantity = "added"
	Total Quantity = "total"
	// Has is all that the guest has: what is left and what was added.
	Has Quantity = "has"
)

// Amounts is where a guest's memory has come from, and gone to, in bytes.
type Amounts struct{ Memory, Taken, Added int64 }

// Of is a quantity of them.
func (a Amounts) Of(q Quantity) int64 {
	switch q {
	case Taken:
		return a.Taken
	case Left:
		return a.Memory - a.Taken
	case Added:
		return a.Added
	case Total:
		return a.Memory + a.Added
	}
	return a.Memory - a.Taken + a.Added
}

// For are the amounts by which a guest comes to have so much.
func (vm *VM) For(bytes int64) Amounts {
	return Amounts{Memory: vm.Memory, Taken: max(0, vm.Memory-bytes), Added: max(0, bytes-vm.Memory)}
}

// Command is the order for amounts.
func (l *Lever) Command(a Amounts) Request {
	r := l.Request
	r.Body = slices.Clone(r.Body)
	for i, f := range r.Body {
		if f.Ask == AskAmount {
			r.Body[i] = Field{At: f.At, Value: strconv.FormatInt(a.Of(l.Counts)/l.Unit, 10), Type: Number, From: f.From}
		}
	}
	return r
}

// check refuses orders that Ampoule never makes.
func (r *Resize) check(vm *VM) error {
	if r == nil {
		if vm.MemoryHotplug != 0 || vm.Balloon {
			return fmt.Errorf("vm.resize: nothing says how the memory is changed")
		}
		return nil
	}
	if (r.Add != nil) != (vm.MemoryHotplug > 0) || (r.Balloon != nil) != vm.Balloon || r.Step < 1 || vm.MemoryHotplug < 0 || vm.MemoryHotplug > maxBytes {
		return fmt.Errorf("vm.resize: it does not fit vm.memory_hotplug and vm.balloon")
	}
	for _, l := range []*Lever{r.Add, r.Balloon} {
		if l == nil {
			continue
		}
		if err := checkAmount(vm, &l.Request, l.Counts, l.Unit, 1); err != nil {
			return err
		}
	}
	for i := range r.Gauges {
		if err := checkAmount(vm, &r.Gauges[i].Request, r.Gauges[i].Counts, r.Gauges[i].Unit, 0); err != nil {
			return err
		}
	}
	return nil
}

func checkAmount(vm *VM, r *Request, counts Quantity, unit int64, places int) error {
	asked := 0
	for _, f := range r.Body {
		if f.Ask != "" {
			asked++
		}
		if f.Ask != "" && f.Ask != AskAmount || f.Ask == AskAmount && (f.Value != "" || f.Type != "") {
			return fmt.Errorf("vm.resize: it asks for what is no amount")
		}
	}
	switch {
	case asked != places:
		return fmt.Errorf("vm.resize: the amount has %d places", asked)
	case unit < 1 || !slices.Contains([]Quantity{Taken, Left, Added, Total, Has}, counts):
		return fmt.Errorf("vm.resize: nothing says what is counted")
	case (r.Method == Execute) != (vm.Control == QMP):
		return fmt.Errorf("vm.resize: an order over another protocol than the VM's")
	}
	l := Lever{Request: *r, Counts: counts, Unit: unit}
	command := l.Command(Amounts{})
	if command.Method == Execute {
		command.Method, command.Path = "PUT", "/"+command.Path
	}
	if err := command.check(); err != nil {
		return fmt.Errorf("vm.resize: %w", err)
	}
	return nil
}
