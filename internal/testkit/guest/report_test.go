package guest

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest/scan"
)

// printed is what the guest's agent writes for one copy of a report.
func printed(boot string, number int, lines ...string) []string {
	out := []string{fmt.Sprintf("%sbegin %s %d", prefix, boot, number)}
	for _, line := range lines {
		out = append(out, prefix+line)
	}
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n") + "\n"))
	return append(out, fmt.Sprintf("%send %s %d %d %x", prefix, boot, number, len(lines), sum))
}

func join(parts ...[]string) []string {
	var all []string
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// body is a report with what is hard: blanks in a name, an empty value, an
// empty serial number, two names out of order.
var body = []string{
	"info cmdline console=ttyS0 a=b",
	"disk vda 4096 1 ",
	"disk vdb 512 0 state disk",
	"cred 3 aa zz",
	"cred 0 e3 two words ",
	"load 3 aa zz",
	"info load-result success",
	"leak firmware 0400 /sys/firmware/x two words ",
	`leak memory 0644 /run/a\040b\134 zz`,
	"info leak-scan 12 34567",
}

func TestParseReport(t *testing.T) {
	want := Report{
		Boot:        1,
		Credentials: []Item{{"two words ", 0, "e3"}, {"zz", 3, "aa"}},
		Loaded:      []Item{{"zz", 3, "aa"}},
		Info:        map[string]string{"cmdline": "console=ttyS0 a=b", "load-result": "success", "leak-scan": "12 34567"},
		Leaks: []scan.Leak{
			{Class: scan.Firmware, Mode: "0400", Path: "/sys/firmware/x", Credential: "two words "},
			{Class: scan.Memory, Mode: "0644", Path: `/run/a b\`, Credential: "zz"},
		},
		Disks: []Disk{{"vda", 4096, true, ""}, {"vdb", 512, false, "state disk"}},
	}
	first, second := printed("1", 1, body...), printed("1", 2, body...)
	broken := func(copy []string, line int, text string) []string {
		out := append([]string{}, copy...)
		out[line] = text
		return out
	}
	noisy := broken(first, 2, "\x1b[0m[  OK  ] half a status line"+first[2]+"\r")
	cases := map[string][]string{
		"both copies":             join(first, second),
		"first alone":             first,
		"second alone":            second,
		"noise around":            join([]string{"[    0.1] x", ""}, noisy, []string{prefix + "action stay"}),
		"kernel text in first":    join(broken(first, 3, first[3]+"[    9.1] random: crng"), second),
		"line of first lost":      join(broken(first, 3, ""), second),
		"begin of first lost":     join(broken(first, 0, "AMPOULE-REP[ 1.2] x"), second),
		"end of first lost":       join(first[:len(first)-1], second),
		"end of first broken":     join(broken(first, len(first)-1, prefix+"end 1"), second),
		"second copy broken":      join(first, broken(second, 4, "")),
		"second copy cut off":     join(first, second[:3]),
		"kernel text before line": join(broken(first, 3, "[    9.1] random: crng"+first[3]), second),
	}
	for name, lines := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := ParseReport(lines)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestParseReportRefuses(t *testing.T) {
	first, second := printed("1", 1, body...), printed("1", 2, body...)
	cases := map[string]struct {
		lines []string
		want  string
	}{
		"nothing":       {[]string{"login:", ""}, "no report"},
		"cut off":       {first[:4], "boot 1, copy 1: has no end"},
		"both damaged":  {join(first[:4], first[5:], second[:4], second[5:]), "copy 2: damaged: 9 lines arrived, 10"},
		"two boots":     {join(first, second, printed("2", 1, body...)), "reports of 2 boots"},
		"later damaged": {join(first, second, printed("2", 1, body...)[:3]), "boot 2, copy 1: has no end"},
		"unknown kind":  {printed("1", 1, "what 1"), `line "what 1": unknown kind`},
		"bad size":      {printed("1", 1, "cred x aa n"), "reading the size"},
		"short cred":    {printed("1", 1, "cred 1 aa"), "three fields"},
		"short leak":    {printed("1", 1, "leak memory 0644 /x"), "four fields"},
		"short disk":    {printed("1", 1, "disk vda"), "four fields"},
		"bad disk":      {printed("1", 1, "disk vda x 0 s"), "reading the size"},
		"bad boot":      {printed("zero", 1, body...), "is not a number"},
		"foreign end":   {append(first[:11:11], prefix+"end 2 1 7 00"), `ends as "2 1 7 00"`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			report, err := ParseReport(c.lines)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, %v, want an error with %q", report, err, c.want)
			}
		})
	}
}

func TestParseReportsOfSeveralBoots(t *testing.T) {
	lines := join(printed("1", 1, body...), printed("1", 2, body...),
		printed("2", 1, body...)[:3], printed("2", 2, body...), printed("unknown", 1, body...))
	reports, err := ParseReports(lines)
	if err != nil {
		t.Fatal(err)
	}
	var boots []int
	for _, report := range reports {
		boots = append(boots, report.Boot)
	}
	if !reflect.DeepEqual(boots, []int{1, 2, 0}) {
		t.Errorf("got boots %v", boots)
	}
}

func TestOrderlyStop(t *testing.T) {
	if OrderlyStop(printed("1", 1, body...)) {
		t.Error("seen in a report")
	}
	if !OrderlyStop([]string{"x", "[1.2] y " + prefix + "orderly-stop\r"}) {
		t.Error("not seen")
	}
}

func TestOf(t *testing.T) {
	want := Item{"n", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
	if got := Of("n", []byte("abc")); got != want {
		t.Errorf("got %+v", got)
	}
}

func FuzzParseReports(f *testing.F) {
	f.Add(strings.Join(join(printed("1", 1, body...), printed("1", 2, body...)), "\n"))
	f.Fuzz(func(t *testing.T, console string) {
		reports, err := ParseReports(strings.Split(console, "\n"))
		if (err == nil) == (len(reports) == 0) {
			t.Errorf("%d reports and error %v", len(reports), err)
		}
	})
}
