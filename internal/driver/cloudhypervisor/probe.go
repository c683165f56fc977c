package cloudhypervisor

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/driver"
)

const (
	// oldest is the first version that is told the format of a disk; those before
	// guess it from what the guest writes to its beginning.
	oldest = "51.0"
	// firstMajor and lastMajor are the versions that the driver was judged with, by
	// reading for the first and by running for the last.
	firstMajor = 51
	lastMajor  = 53
)

// Probe asks for the version.
func (Driver) Probe() ([]string, func(string) (string, string, error)) {
	return []string{"--version"}, readVersion
}

// readVersion reads "cloud-hypervisor v53.0.0", or with the commit behind a dash.
func readVersion(output string) (version, warning string, err error) {
	m := regexp.MustCompile(`^cloud-hypervisor v((\d+)\.\d+(?:\.\d+)?)`).FindStringSubmatch(output)
	if m == nil {
		return "", "", fmt.Errorf("this is not Cloud Hypervisor: it does not answer --version with \"cloud-hypervisor v…\"")
	}
	major, err := strconv.Atoi(m[2])
	switch {
	case err != nil || major < firstMajor:
		return m[1], "", fmt.Errorf("cloud-hypervisor %s is older than the oldest that Ampoule can use, %s: it guesses the format of a disk, which the guest could change", m[1], oldest)
	case major > lastMajor:
		warning = fmt.Sprintf("cloud-hypervisor %s is newer than those that this version of Ampoule was tried with (up to %d)", m[1], lastMajor)
	}
	return m[1], warning, nil
}

// Ended explains an exit code: 0 follows the guest's power-off, 1 an error that it
// has printed. A processor on which KVM gives up ends it by 0 too, with a word on
// standard error.
func (Driver) Ended(code int, words string) driver.Ending {
	if code == 0 && strings.Contains(words, "VCPU generated error") {
		return driver.Ending{What: "a virtual processor of the guest failed"}
	}
	return driver.Ending{PoweredOff: code == 0}
}
