package run

import (
	"context"
	"errors"

	"github.com/ampoule-vm/ampoule/internal/plan"
)

// hypervisor is one that was started, held by its control protocol. Its methods
// may be called by several goroutines.
type hypervisor interface {
	// launch waits until it answers, hands it the VM if it does not have it, and
	// lets the guest run. It is called first, and once. The version is the one
	// that the hypervisor names itself.
	launch(ctx context.Context) (version string, err error)
	// events tells what happens to the guest, and is closed when nothing more
	// comes; err says then why. It is nil where nothing ever comes.
	events() <-chan event
	err() error
	// order returns when an order was taken.
	order(ctx context.Context, what order) error
	// request makes one of the plan that has nothing to hide, and hands the answer,
	// which can, to read; it is wiped after that.
	request(ctx context.Context, r plan.Request, read func(answer []byte) error) error
	close()
}

// order is what a hypervisor that runs can be told.
type order int

const (
	// pressButton presses the power button.
	pressButton order = iota
	// goOn starts a guest again that waits after its reboot.
	goOn
	// beAlive asks for a sign of life.
	beAlive
	// end is to end it, where it can be told to.
	end
)

// errCannot: this hypervisor does not take such an order.
var errCannot = errors.New("this hypervisor cannot be told")

// event is something that happened to the guest.
type event struct {
	what happening
	// reason is what the hypervisor says of an end from outside.
	reason string
}

type happening int

const (
	// resumed: the guest runs, again after a reboot.
	resumed happening = iota
	// waits: the guest has rebooted, and its hypervisor waits for us to say what
	// comes next; reboots: it goes on by itself.
	waits
	reboots
	panicked
	poweredOff
	// unfed: the guest's watchdog has run out, and the guest is reset.
	unfed
	// ended: somebody else ended it.
	ended
)

// happenings are the words of a plan.
func happenings() map[plan.Meaning]happening {
	return map[plan.Meaning]happening{
		plan.Rebooting: reboots, plan.Resumed: resumed, plan.Panicked: panicked, plan.PoweredOff: poweredOff,
	}
}
