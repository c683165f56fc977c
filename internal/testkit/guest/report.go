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

	"github.com/ampoule-vm/ampoule/internal/testkit/guest/scan"
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
	// Leaks are the places where a credential's value was found and that are not
	// a store of the guest's systemd, where the kernel command line says
	// ampoule.test=scan. What the firmware left is among them, with its own class.
	Leaks []scan.Leak
	// Info holds facts by name: cmdline, kernel, systemd, cpus, memory-kib,
	// machine-id, hostname, clocksource, power-button (ready, absent, or deaf
	// where logind never opened it), load-result (success, failed), uptime in
	// seconds; root-fs (type, source and options of /), initrd (systemd, other,
	// none: what handed over to this root), environ-variable (what PID 1 has as
	// CREDENTIALS_DIRECTORY, empty without), mount-credentials (the lines of
	// /proc/mounts for PID 1's store).
	//
	// With ampoule.test=scan also leak-scan (files and bytes that were read; few
	// are a blind scan), leak-needles, leak-milliseconds, and where there is any
	// cause leak-unsearched (names of credentials that are too short),
	// leak-unread (number and first reason), leak-more (leaks beyond those in
	// Leaks).
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
	for _, boot := range readBoots(lines) {
		report, err := boot.report()
		if err != nil {
			return nil, err
		}
		reports = append(reports, report)
	}
	if len(reports) == 0 {
		return nil, errors.New("the console holds no report")
	}
	return reports, nil
}

// copies are what one boot printed: the same block, once or twice.
type copies []*block

// readBoots collects the blocks of a console, those without an end included.
func readBoots(lines []string) []copies {
	var boots []copies
	var open *block
	for _, line := range lines {
		text, ok := reportText(line)
		if !ok {
			continue
		}
		word, rest, _ := strings.Cut(text, " ")
		switch word {
		case "begin":
			open = &block{}
			open.boot, open.copy, _ = strings.Cut(rest, " ")
			// A second copy belongs to the first, unless that lost its begin.
			last := len(boots) - 1
			if open.copy == "2" && last >= 0 && len(boots[last]) == 1 && boots[last][0].copy == "1" {
				boots[last] = append(boots[last], open)
			} else {
				boots = append(boots, copies{open})
			}
		case "end":
			if open != nil {
				open.end = rest
				open = nil
			}
		case "action", "orderly-stop", "error", "said", "script-end":
		default:
			if open != nil {
				open.lines = append(open.lines, text)
			}
		}
	}
	return boots
}

// report returns the first intact copy, or why there is none.
func (c copies) report() (Report, error) {
	var problems []error
	for _, block := range c {
		report, err := block.report()
		if err == nil {
			return report, nil
		}
		problems = append(problems, err)
	}
	return Report{}, errors.Join(problems...)
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

// block is one copy of a report as it was printed.
type block struct {
	boot, copy string
	lines      []string
	// end is the text of the end line; empty where it did not arrive.
	end string
}

// report checks a copy against its end line and reads it.
func (b *block) report() (Report, error) {
	if b.end == "" {
		return Report{}, fmt.Errorf("boot %s, copy %s: has no end", b.boot, b.copy)
	}
	fields := strings.Fields(b.end)
	if len(fields) != 4 || fields[0] != b.boot || fields[1] != b.copy {
		return Report{}, fmt.Errorf("boot %s, copy %s: ends as %q", b.boot, b.copy, b.end)
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
	case "leak":
		fields := strings.SplitN(rest, " ", 4)
		if len(fields) != 4 {
			return errors.New("four fields are needed")
		}
		r.Leaks = append(r.Leaks, scan.Leak{
			Class: scan.Class(fields[0]), Mode: fields[1], Path: scan.Unescape(fields[2]), Credential: fields[3],
		})
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
