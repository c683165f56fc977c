package qemu

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/driver"
)

// oldest and newest are the versions that the driver was judged with. Newer
// ones are expected to work: QEMU announces removals two releases ahead.
const (
	oldest = 7
	newest = 10
)

// Probe asks for the version.
func (Driver) Probe() ([]string, func(string) (string, string, error)) {
	return []string{"--version"}, readVersion
}

func readVersion(output string) (version, warning string, err error) {
	m := regexp.MustCompile(`^QEMU emulator version ((\d+)\.\d+(?:\.\d+)?)`).FindStringSubmatch(output)
	if m == nil {
		return "", "", fmt.Errorf("this is not QEMU: it does not answer --version with \"QEMU emulator version …\"")
	}
	major, err := strconv.Atoi(m[2])
	switch {
	case err != nil || major < oldest:
		return m[1], "", fmt.Errorf("QEMU %s is older than the oldest that Ampoule can use, %d.0", m[1], oldest)
	case major > newest:
		warning = fmt.Sprintf("QEMU %s is newer than those that this version of Ampoule was tried with (up to %d)", m[1], newest)
	}
	return m[1], warning, nil
}

// Ended reads "PROGRAM: -option value: words", the form in which QEMU refuses
// an argument. Its exit code tells nothing: it is 0 whatever became of the guest.
func (Driver) Ended(_ int, words string) driver.Ending {
	for line := range strings.Lines(words) {
		_, rest, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || !strings.HasPrefix(rest, "-") {
			continue
		}
		if argument, _, ok := strings.Cut(rest, ": "); ok {
			return driver.Ending{Argument: argument}
		}
	}
	return driver.Ending{}
}
