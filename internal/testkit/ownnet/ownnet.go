// Package ownnet gives tests a network of their own, in which they may make and
// remove interfaces as they like.
package ownnet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

const variable = "AMPOULE_OWN_NETWORK"

// Main is for TestMain: it carries the tests out in a network namespace of their
// own, with a /sys of its own, which ends with them. Without root it carries them
// out here; those that need a network are skipped then, see Need.
func Main(m *testing.M) int {
	if os.Geteuid() != 0 || os.Getenv(variable) != "" {
		return m.Run()
	}
	words := append([]string{"--net", "--mount", "sh", "-c", `mount -t sysfs sysfs /sys && exec "$@"`, "sh"}, os.Args...)
	cmd := exec.Command("unshare", words...)
	cmd.Env = append(os.Environ(), variable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "a network for the tests:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// Need skips a test where there is no such network.
func Need(t testing.TB) {
	t.Helper()
	need.All(t, need.Tun)
	if os.Getenv(variable) == "" {
		t.Skip("it is not in a network of its own")
	}
}
