package guest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// prefix opens every line of a report. A console line may hold other text
// before it, such as the end of a status message.
const prefix = "AMPOULE-REPORT "

// Report is what one boot of the guest said about itself.
type Report struct {
	// Boot counts the boots of this VM from 1, across resets; 0 where the
	// machine has nothing in which the guest can count.
	Boot int
	// Credentials are what the guest's PID 1 received, Loaded what a service of
	// an unprivileged user got through LoadCredential=, both sorted by name.
	Credentials, Loaded []Item
	// Info holds facts by name: cmdline, kernel, systemd, cpus, memory-kib,
	// machine-id, hostname, virtualization, clocksource, power-button
	// (ready, absent, or deaf where logind never opened it), load-result, uptime.
	Info map[string]string
	// Disks are the virtio disks, in the kernel's order.
	Disks []Disk
}

// Item is one credential as the guest has it. Its value stays in the guest.
type Item struct {
	Name  string
	Bytes int64
	// SHA256 is in lower-case hexadecimal.
	SHA256 string
}

// Of describes a value the way the guest does, for comparison.
func Of(name string, value []byte) Item {
	sum := sha256.Sum256(value)
	return Item{Name: name, Bytes: int64(len(value)), SHA256: hex.EncodeToString(sum[:])}
}

// Disk is one disk of the guest.
type Disk struct {
	// Name is the kernel's: vda, vdb.
	Name     string
	Bytes    int64
	ReadOnly bool
	// Serial is empty where the disk has none.
	Serial string
}

// ParseReport reads the one report in the lines of a console. No intact report,
// or more than one boot, is an error.
func ParseReport(lines []string) (Report, error) {
	reports, err := ParseReports(lines)
	if err != nil {
		return Report{}, err
	}
	if len(reports) != 1 {
		return Report{}, fmt.Errorf("the console holds the reports of %d boots, not of one", len(reports))
	}
	return reports[0], nil
}

// ParseReports reads the reports of all boots on a console, in order. Each boot
// prints its report twice; one intact copy is enough. An error names the boot
// whose copies are all damaged, or says that there is no report.
func ParseReports(lines []string) ([]Report, error) {
	var reports []Report
	var damage error
	var open *block
	for _, line := range lines {
		text, ok := reportText(line)
		if !ok {
			continue
		}
		word, rest, _ := strings.Cut(text, " ")
		switch word {
		case "begin":
			// A second begin without an end is a copy that lost its end.
			if open != nil {
				damage = fmt.Errorf("boot %s, copy %s: no end", open.boot, open.copy)
			}
			open = &block{}
			open.boot, open.copy, _ = strings.Cut(rest, " ")
			if open.copy == "1" && damage != nil {
				return nil, damage
			}
		case "end":
			if open == nil {
				continue
			}
			copyNumber := open.copy
			report, err := open.close(rest)
			open = nil
			switch {
			case err == nil && copyNumber == "2" && damage == nil && len(reports) > 0:
				// The first copy was intact and has been taken.
			case err == nil:
				damage = nil
				reports = append(reports, report)
			case copyNumber == "1":
				damage = err
			}
		case "action", "orderly-stop", "error":
		default:
			if open != nil {
				open.lines = append(open.lines, text)
			}
		}
	}
	if damage != nil {
		return nil, damage
	}
	if len(reports) == 0 {
		return nil, errors.New("the console holds no report")
	}
	return reports, nil
}

// OrderlyStop reports whether the guest ran its ExecStop= lines, which only a
// shutdown in order does.
func OrderlyStop(lines []string) bool {
	return slices.ContainsFunc(lines, func(line string) bool {
		text, ok := reportText(line)
		return ok && text == "orderly-stop"
	})
}

// reportText returns what follows the prefix in a console line.
func reportText(line string) (string, bool) {
	i := strings.LastIndex(line, prefix)
	if i < 0 {
		return "", false
	}
	return strings.TrimRight(line[i+len(prefix):], "\r\n"), true
}

// block is a copy of a report that is being read.
type block struct {
	boot, copy string
	lines      []string
}

// close checks a copy against its end line and reads it.
func (b *block) close(end string) (Report, error) {
	fields := strings.Fields(end)
	if len(fields) != 4 || fields[0] != b.boot || fields[1] != b.copy {
		return Report{}, fmt.Errorf("boot %s, copy %s: ends as %q", b.boot, b.copy, end)
	}
	var text bytes.Buffer
	for _, line := range b.lines {
		text.WriteString(line)
		text.WriteByte('\n')
	}
	sum := sha256.Sum256(text.Bytes())
	if fields[2] != strconv.Itoa(len(b.lines)) || fields[3] != hex.EncodeToString(sum[:]) {
		return Report{}, fmt.Errorf("boot %s, copy %s: damaged: %d lines arrived, %s were printed",
			b.boot, b.copy, len(b.lines), fields[2])
	}
	report := Report{Info: map[string]string{}}
	if b.boot != "unknown" {
		n, err := strconv.Atoi(b.boot)
		if err != nil || n < 1 {
			return Report{}, fmt.Errorf("boot %q is not a number", b.boot)
		}
		report.Boot = n
	}
	for _, line := range b.lines {
		if err := report.add(line); err != nil {
			return Report{}, fmt.Errorf("boot %s: line %q: %w", b.boot, line, err)
		}
	}
	byName := func(a, b Item) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(report.Credentials, byName)
	slices.SortFunc(report.Loaded, byName)
	return report, nil
}

// add takes one line of a report in.
func (r *Report) add(line string) error {
	kind, rest, _ := strings.Cut(line, " ")
	switch kind {
	case "info":
		name, value, _ := strings.Cut(rest, " ")
		r.Info[name] = value
	case "cred", "load":
		fields := strings.SplitN(rest, " ", 3)
		if len(fields) != 3 {
			return errors.New("three fields are needed")
		}
		size, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return fmt.Errorf("reading the size: %w", err)
		}
		item := Item{Name: fields[2], Bytes: size, SHA256: fields[1]}
		if kind == "cred" {
			r.Credentials = append(r.Credentials, item)
		} else {
			r.Loaded = append(r.Loaded, item)
		}
	case "disk":
		fields := strings.SplitN(rest, " ", 4)
		if len(fields) != 4 {
			return errors.New("four fields are needed")
		}
		size, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return fmt.Errorf("reading the size: %w", err)
		}
		r.Disks = append(r.Disks, Disk{
			Name: fields[0], Bytes: size, ReadOnly: fields[2] == "1", Serial: fields[3],
		})
	default:
		return errors.New("unknown kind")
	}
	return nil
}
