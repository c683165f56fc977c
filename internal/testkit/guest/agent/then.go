package main

import (
	"fmt"
	"os/exec"
	"strings"
)

// then waits until the guest has started, as its PID 1 sees it, and does what the
// kernel command line asks for with ampoule.then=WORD[,WORD...], the first that
// applies. The words of ampoule.test= are carried out before that, by a service to
// which PID 1 still waits.
//
//	reboot-once    reboot, unless this is not the first boot of this VM
//	poweroff       power off
//	exit-N         end with the exit status N
func then() error {
	words, err := wordsOf("ampoule.then=")
	if err != nil {
		return err
	}
	// It ends with an error where a unit has failed, which is no matter here.
	_ = exec.Command("systemctl", "is-system-running", "--wait").Run()
	for _, word := range words {
		if word == "reboot-once" && boots() != 1 {
			continue
		}
		if err := say("action " + word); err != nil {
			return err
		}
		if status, ok := strings.CutPrefix(word, "exit-"); ok {
			if out, err := exec.Command("systemctl", "exit", status).CombinedOutput(); err != nil {
				return fmt.Errorf("systemctl exit: %w: %s", err, out)
			}
			return nil
		}
		return act(word)
	}
	return nil
}
