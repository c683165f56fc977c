package spec

import (
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"
)

// The value types of the key table. Each returns an error that says what is
// wrong with the value, never the value's meaning to the VM; what would be
// accepted stands in the row. A value that does not parse is an error, never
// a default.

// ParseSize reads a size in bytes: digits, an optional fraction, and one of
// the suffixes B, K, M, G, T, P, E to the base 1024, as systemd does.
func ParseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, " \t")
	factor := int64(1)
	if digits != "" {
		if i := strings.IndexByte("BKMGTPE", digits[len(digits)-1]); i >= 0 {
			factor = int64(1) << (10 * i)
			digits = strings.TrimRight(digits[:len(digits)-1], " \t")
		}
	}
	whole, fraction, hasFraction := strings.Cut(digits, ".")
	if !decimal(whole) || hasFraction && !decimal(fraction) {
		return 0, fmt.Errorf("not a size")
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > math.MaxInt64/factor {
		return 0, fmt.Errorf("too large for a size")
	}
	n *= factor
	if hasFraction {
		f, err := strconv.ParseFloat("0."+fraction, 64)
		if err != nil {
			return 0, fmt.Errorf("not a size")
		}
		part := f * float64(factor)
		if part != math.Trunc(part) {
			return 0, fmt.Errorf("not a whole number of bytes")
		}
		if n > math.MaxInt64-int64(part) {
			return 0, fmt.Errorf("too large for a size")
		}
		n += int64(part)
	}
	return n, nil
}

func decimal(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// FormatSize writes a size with the largest suffix that loses nothing.
func FormatSize(n int64) string {
	const suffixes = "BKMGTPE"
	i := 0
	for i+1 < len(suffixes) && n != 0 && n%1024 == 0 {
		n /= 1024
		i++
	}
	if i == 0 {
		return strconv.FormatInt(n, 10)
	}
	return strconv.FormatInt(n, 10) + suffixes[i:i+1]
}

// ParseInt reads a decimal integer from lo to hi, without sign or blanks.
func ParseInt(s string, lo, hi int) (int, error) {
	if !decimal(s) {
		return 0, fmt.Errorf("not a whole number")
	}
	n, err := strconv.Atoi(s)
	switch {
	case err != nil || n > hi:
		return 0, fmt.Errorf("more than %d", hi)
	case n < lo:
		return 0, fmt.Errorf("less than %d", lo)
	}
	return n, nil
}

// ParseWordOf accepts one of a fixed set of words.
func ParseWordOf(s string, accepted ...string) (string, error) {
	for _, a := range accepted {
		if s == a {
			return s, nil
		}
	}
	return "", fmt.Errorf("not one of the accepted words")
}

// MaxPath is the longest path the kernel takes (PATH_MAX without its NUL).
const MaxPath = 4095

// ParseAbsolutePath accepts an absolute path and returns it without
// repeated or trailing slashes. ".." is refused, as systemd does for paths
// that it opens for a service.
func ParseAbsolutePath(s string) (string, error) {
	if !strings.HasPrefix(s, "/") {
		return "", fmt.Errorf("not an absolute path")
	}
	return cleanPath(s)
}

func cleanPath(s string) (string, error) {
	switch {
	case len(s) > MaxPath:
		return "", fmt.Errorf("longer than %d bytes", MaxPath)
	case strings.IndexByte(s, 0) >= 0:
		return "", fmt.Errorf("a path cannot hold a NUL byte")
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == ".." {
			return "", fmt.Errorf("a path with .. in it")
		}
		if len(part) > 255 {
			return "", fmt.Errorf("a file name longer than 255 bytes")
		}
	}
	return path.Clean(s), nil
}

// ParseMachineID accepts 32 hexadecimal digits or a UUID and returns the
// 32 digits in lower case. All zeros is no machine ID (machine-id(5)).
func ParseMachineID(s string) (string, error) {
	id := strings.ToLower(s)
	if len(id) == 36 && id[8] == '-' && id[13] == '-' && id[18] == '-' && id[23] == '-' {
		id = strings.ReplaceAll(id, "-", "")
	}
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return "", fmt.Errorf("not a machine ID")
	}
	if strings.Trim(id, "0") == "" {
		return "", fmt.Errorf("a machine ID of zeros is none")
	}
	return id, nil
}

// nameBegins and nameHas are what the name of a VM is made of: it becomes part
// of unit names, paths and socket names.
const (
	nameBegins = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	nameHas    = nameBegins + "_.-"
)

// MaxName is the longest name of a VM in bytes.
const MaxName = 48

// AcceptedName describes a valid name for messages.
const AcceptedName = "accepted: a letter or digit, then letters, digits, '_', '.', '-', at most 48 bytes"

// CheckName says what is wrong with the name of a VM, or nil.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the name of the VM is empty")
	case strings.Contains(name, "@"):
		return fmt.Errorf("@ is reserved in names of VMs")
	case len(name) > MaxName:
		return fmt.Errorf("the name of the VM is longer than %d bytes", MaxName)
	case strings.Trim(name, nameHas) != "" || !strings.Contains(nameBegins, name[:1]):
		return fmt.Errorf("not a name of a VM")
	}
	return nil
}
