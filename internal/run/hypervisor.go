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
	// lets the guest run. It is called first, and once.
	launch(ctx context.Context) error
	// version is the one that it names itself; empty where it does not.
	version() string
	// events tells what happens to the guest, and is closed when nothing more
	// comes; err says then why. It is nil where nothing ever comes.
	events() <-chan event
	err() error
	// press presses the power button.
	press(ctx context.Context) error
	// resume starts a guest again that waits after its reboot.
	resume(ctx context.Context) error
	// alive returns when there is a sign of life.
	alive(ctx context.Context) error
	// quit tells it to end, where it can be told.
	quit(ctx context.Context) error
	close()
}

// errNoButton: the hypervisor has no power button.
var errNoButton = errors.New("this hypervisor has no power button")

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
	// ended: somebody else ended it.
	ended
)

// happenings are the words of a plan.
func happenings() map[plan.Meaning]happening {
	return map[plan.Meaning]happening{
		plan.Rebooting: reboots, plan.Resumed: resumed, plan.Panicked: panicked, plan.PoweredOff: poweredOff,
	}
}
