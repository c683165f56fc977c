package firecracker

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/ampoule-vm/ampoule/internal/driver"
)

const (
	// oldest is the first version that the driver was judged with, by reading;
	// lastMinor the last, by running.
	oldest     = "1.10"
	firstMinor = 10
	lastMinor  = 16
)

// Probe asks for the version.
func (Driver) Probe() ([]string, func(string) (string, string, error)) {
	return []string{"--version"}, readVersion
}

// readVersion reads "Firecracker v1.16.1" on the first line.
func readVersion(output string) (version, warning string, err error) {
	m := regexp.MustCompile(`^Firecracker v((\d+)\.(\d+)(?:\.\d+)?)`).FindStringSubmatch(output)
	if m == nil {
		return "", "", fmt.Errorf("this is not Firecracker: it does not answer --version with \"Firecracker v…\"")
	}
	major, err := strconv.Atoi(m[2])
	minor, err2 := strconv.Atoi(m[3])
	switch {
	case err != nil || err2 != nil || major < 1 || major == 1 && minor < firstMinor:
		return m[1], "", fmt.Errorf("firecracker %s is older than the oldest that Ampoule can use, %s", m[1], oldest)
	case major > 1 || minor > lastMinor:
		warning = fmt.Sprintf("firecracker %s is newer than those that this version of Ampoule was tried with (up to 1.%d)", m[1], lastMinor)
	}
	return m[1], warning, nil
}

// Ended explains an exit code: FcExitCode in src/vmm/src/lib.rs. It is 0 when the
// guest has reset the machine, which is the only end that a guest can give it.
func (Driver) Ended(code int, _ string) driver.Ending {
	if code == 0 {
		return driver.Ending{PoweredOff: true, What: "the guest rebooted, which ends firecracker"}
	}
	return driver.Ending{What: map[int]string{
		1:   "it gave up; its words say why",
		148: "it made a system call that its own filter forbids",
		149: "it was hit by SIGBUS: memory or a disk behind it was taken away",
		150: "it was hit by SIGSEGV, a mistake of its own",
		151: "it was hit by SIGXFSZ: a file has become too large",
		152: "it did not take its configuration",
		153: "it does not know an argument",
		154: "it was hit by SIGXCPU: it has used up its processor time",
		155: "it was hit by SIGPIPE",
		156: "it was hit by SIGHUP",
		157: "it was hit by SIGILL",
	}[code]}
}
