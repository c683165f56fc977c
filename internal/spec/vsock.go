package spec

import (
	"fmt"
	"strconv"
)

// AnyCID stands for VSockCID=auto: a number that is free when the VM starts.
const AnyCID = 0

// NotifiesOverStreams is the first version of systemd that can tell the host how
// its boot goes over a stream of vsock (src/libsystemd/sd-daemon/sd-daemon.c).
const NotifiesOverStreams = 254

func vsockRows() []Row {
	return []Row{{
		Name: "VSockCID", Form: "auto|N", Default: "none: the guest has no vsock", Words: []string{"auto"},
		Accepted: "accepted: auto, or a whole number from 3 to 4294967294",
		Help: "Gives the guest a socket of the family AF_VSOCK to this host, and its number. auto takes one that is free. " +
			"Over it the guest's systemd says when it is ready (Readiness=guest), and ampoule ssh gets in.",
		apply: setScalar(func(vm *VM) *Setting[int64] { return &vm.VSockCID }, parseCID),
	}, sshRow()}
}

// parseCID takes what Linux gives to guests: 0 to 2 are the hypervisor, the
// loopback and the host, and the last stands for any (linux/vm_sockets.h).
func parseCID(s string) (int64, error) {
	if s == "auto" {
		return AnyCID, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	switch {
	case err != nil || !decimal(s):
		return 0, fmt.Errorf("neither auto nor a number")
	case n < 3:
		return 0, fmt.Errorf("the numbers up to 2 are not for guests")
	case n == 1<<32-1:
		return 0, fmt.Errorf("this number stands for any")
	}
	return int64(n), nil
}

// checkReadiness decides what Readiness=auto is, and refuses what can never come.
func (r *reader) checkReadiness() {
	vm := r.vm
	at := vm.Readiness.From
	switch vm.Readiness.Value.Mode {
	case "console":
		if vm.Console.Value == "none" {
			at.Errorf(r.problems, "accepted: Console=auto, or another Readiness=",
				"there is no console to watch with Console=none (%s)", vm.Console.From.Origin)
		}
	case "guest":
		if !vm.VSockCID.Set {
			at.Errorf(r.problems, "add VSockCID=auto, or use Readiness=console:REGEX", "the guest's own word comes over vsock, and the VM has none")
		}
		if v := vm.GuestSystemd; v.Set && v.Value < NotifiesOverStreams {
			at.Errorf(r.problems, "use Readiness=console:REGEX", "a guest's systemd below %d (%s) does not say over vsock that it is ready", NotifiesOverStreams, v.From.Origin)
		}
	}
}

// Ready is Readiness= with auto decided: by the guest's own word where it is known
// to give one, and nobody else's program decides whether there is a guest.
func (vm *VM) Ready() Readiness {
	switch ready := vm.Readiness.Value; {
	case ready.Mode != "auto":
		return ready
	case vm.VSockCID.Set && vm.GuestSystemd.Value >= NotifiesOverStreams && !vm.Runner.Set:
		return Readiness{Mode: "guest"}
	}
	return Readiness{Mode: "started"}
}
