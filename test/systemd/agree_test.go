package systemd

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/nspawn"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// generated is how many files the generator adds to the others.
const generated = 600

// specimen is one unit under test.
type specimen struct {
	unit  string // name it is loaded under
	about string // where its text comes from
	// files in the order systemd reads them; the first is the unit itself.
	files []specimenFile
	knows func(section, key string) bool
}

type specimenFile struct {
	path string // below /etc/systemd/system
	text string
}

// TestAgreement loads every specimen into a real systemd and compares what it
// made of each with what our parser says.
func TestAgreement(t *testing.T) {
	nspawn.Need(t)
	for _, r := range []release{
		{name: "bookworm", version: "systemd 252", corpus: strings.Fields(corpusPackages)},
		{name: "trixie", version: "systemd 257"},
	} {
		t.Run(r.name, func(t *testing.T) {
			root := debianRoot(t, r)
			specimens := slices.Concat(synthetic(), fromDebian(t, root))
			units, shared := t.TempDir(), t.TempDir()
			writeUnits(t, units, specimens)
			writeShared(t, shared, specimens)
			boot(t, root, units, shared)

			if done := readFile(t, filepath.Join(shared, "out", "done")); !strings.HasPrefix(done, r.version) {
				t.Errorf("booted %q, want %q", done, r.version)
			}
			properties := readProperties(t, filepath.Join(shared, "out", "properties"))
			journal := readJournal(t, filepath.Join(shared, "out", "journal"))
			var count tally
			for _, s := range specimens {
				s.compare(t, properties[s.unit], journal, &count)
			}
			t.Logf("%s: %d files of our own, %d of Debian: %d properties, %d warnings compared", r.version, count.own, count.debian, count.properties, count.events)
			// A comparison that compares nothing agrees too.
			if count.own < 700 || count.debian < 150 || count.properties < 2000 || count.events < 1500 {
				t.Errorf("too little was compared: %+v", count)
			}
		})
	}
}

type tally struct{ own, debian, properties, events int }

// carriers are the settings of generated files that systemd knows.
var carriers = map[string]bool{
	"Unit.Description": true, "Unit.ConditionHost": true,
	"Service.Type": true, "Service.SyslogIdentifier": true, "Service.Environment": true, "Service.SetCredential": true,
	"Service.ExecStart": true, "Service.ExecStartPre": true, "Service.ExecStop": true,
}

func knowsCarriers(section, key string) bool { return carriers[section+"."+key] }

// synthetic returns units made of hand-written and generated text, in turn as
// the unit itself and as drop-ins, where an error leaves standing what
// precedes it.
func synthetic() []specimen {
	texts := fixed()
	abouts := make([]string, len(texts))
	for i := range texts {
		abouts[i] = "fixed " + strconv.Itoa(i)
	}
	for seed := range uint64(generated) {
		texts = append(texts, generate(seed))
		abouts = append(abouts, "seed "+strconv.FormatUint(seed, 10))
	}
	var specimens []specimen
	for i := 0; i < len(texts); i++ {
		unit := fmt.Sprintf("ampoule-t%d.service", i)
		s := specimen{unit: unit, about: abouts[i], knows: knowsCarriers}
		switch {
		case i%3 == 2:
			s.files = []specimenFile{
				{unit, "[Unit]\nDescription=main\n[Service]\nType=oneshot\nExecStart=/main\n"},
				{unit + ".d/10.conf", texts[i]},
			}
			// A second one shows that the next drop-in is read whatever
			// happened.
			if i+1 < len(texts) {
				i++
				s.about += " and " + abouts[i]
				s.files = append(s.files, specimenFile{unit + ".d/20.conf", texts[i]})
			}
		case texts[i] == "":
			continue // an empty unit is a masked one
		default:
			s.files = []specimenFile{{unit, texts[i]}}
		}
		specimens = append(specimens, s)
	}
	return specimens
}

// compare checks one unit.
func (s specimen) compare(t *testing.T, got map[string][]string, journal map[string][]event, count *tally) {
	t.Helper()
	if got == nil {
		t.Errorf("%s (%s): systemd could not tell its properties", s.unit, s.about)
		return
	}
	m := newModel(s.unit)
	m.knows = s.knows
	m.properties["Description"] = &property{values: []string{s.unit}}
	report := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s (%s): %s", s.unit, s.about, fmt.Sprintf(format, args...))
		for _, f := range s.files {
			if text := f.text; len(text) < 3000 {
				t.Logf("%s: %q", f.path, text)
			}
		}
	}
	for i, f := range s.files {
		m.dropIn = i > 0
		events := m.apply(unitfile.Parse(f.path, "", []byte(f.text)))
		if s.knows != nil {
			count.own++
		} else {
			count.debian++
		}
		count.events += len(events)
		got := slices.DeleteFunc(journal["/etc/systemd/system/"+f.path], func(e event) bool {
			return s.knows == nil && strings.HasPrefix(e.text, "Unknown key ") || m.stopped > 0 && e.line >= m.stopped
		})
		if diff := compareEvents(events, got, !strings.Contains(f.text, "\\")); diff != "" {
			report("%s: %s", f.path, diff)
		}
	}
	// Debian's units may fail for other reasons, such as a bus name that
	// another has.
	if state := got["LoadState"]; len(state) != 1 || (state[0] == "error") != m.failed && (s.knows != nil || m.failed) {
		report("LoadState=%q, but failed=%v", state, m.failed)
	}
	for _, name := range slices.Sorted(maps.Keys(m.properties)) {
		values, ok := got[name]
		if !ok {
			report("systemd has no property %s", name)
			continue
		}
		count.properties++
		if diff := m.properties[name].compare(values); diff != "" {
			report("%s: %s", name, diff)
		}
	}
}

// compareEvents checks the warnings about one file. systemd counts a joined
// line by its last physical line, we by its first; where nothing is joined the
// lines are exact.
func compareEvents(want, got []event, exact bool) string {
	// Asked for all properties, systemd reads the file a second time, for
	// UnitFileState, and repeats some of its warnings; what it had given up it
	// then reads to the end. Within one reading lines ascend.
	for n := 1; n < len(got); n++ {
		if got[n].line <= got[n-1].line {
			got = got[:n]
		}
	}
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("we expect %v, systemd says nothing more", want[i])
		case i >= len(want):
			return fmt.Sprintf("systemd says %v, we expect nothing more", got[i])
		case !strings.HasPrefix(got[i].text, want[i].text),
			exact && got[i].line != want[i].line,
			got[i].line < want[i].line,
			i+1 < len(want) && got[i].line >= want[i+1].line:
			return fmt.Sprintf("systemd says %v, we expect %v", got[i], want[i])
		}
	}
	return ""
}

// writeUnits fills the directory that becomes /etc/systemd/system.
func writeUnits(t *testing.T, dir string, specimens []specimen) {
	t.Helper()
	for _, s := range specimens {
		for _, f := range s.files {
			writeFile(t, filepath.Join(dir, f.path), f.text)
		}
	}
	writeFile(t, filepath.Join(dir, "collect.service"), readFile(t, "testdata/collect.service"))
}

// writeShared fills the directory that becomes /ampoule.
func writeShared(t *testing.T, dir string, specimens []specimen) {
	t.Helper()
	var list strings.Builder
	for _, s := range specimens {
		fmt.Fprintf(&list, "%s %s\n", s.unit, objectPath(s.unit))
	}
	writeFile(t, filepath.Join(dir, "units"), list.String())
	writeFile(t, filepath.Join(dir, "collect"), readFile(t, "testdata/collect"))
	if err := os.Mkdir(filepath.Join(dir, "out"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// objectPath is the D-Bus object of a unit: everything but letters and digits
// as _xx.
func objectPath(unit string) string {
	var b strings.Builder
	b.WriteString("/org/freedesktop/systemd1/unit/")
	for i := range len(unit) {
		if c := unit[i]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

// readProperties returns, per unit, the properties with their elements as
// text.
func readProperties(t *testing.T, path string) map[string]map[string][]string {
	t.Helper()
	all := map[string]map[string][]string{}
	readLines(t, path, func(line string) {
		unit, text, _ := strings.Cut(line, " ")
		if text == "failed" {
			return
		}
		var reply struct {
			Data []map[string]struct {
				Type string
				Data any
			}
		}
		if err := json.Unmarshal([]byte(text), &reply); err != nil || len(reply.Data) != 1 {
			t.Fatalf("reading the properties of %s: %v: %.200s", unit, err, text)
		}
		all[unit] = map[string][]string{}
		for name, v := range reply.Data[0] {
			if values := elements(v.Type, v.Data); values != nil {
				all[unit][name] = values
			}
		}
	})
	return all
}

// elements writes a property as model does, nil for types it does not use.
func elements(kind string, data any) []string {
	values := []string{}
	switch kind {
	case "s":
		return []string{data.(string)}
	case "as":
		for _, v := range data.([]any) {
			values = append(values, v.(string))
		}
	case "a(sbbsi)": // name, trigger, negate, parameter, state
		for _, v := range data.([]any) {
			c := v.([]any)
			text := c[0].(string)
			if c[1].(bool) {
				text += " |"
			}
			if c[2].(bool) {
				text += " !"
			}
			values = append(values, text+" "+strconv.Quote(c[3].(string)))
		}
	case "a(say)":
		for _, v := range data.([]any) {
			c := v.([]any)
			var text []byte
			for _, b := range c[1].([]any) {
				text = append(text, byte(b.(float64)))
			}
			values = append(values, strconv.Quote(c[0].(string))+":"+strconv.Quote(string(text)))
		}
	case "a(sasbttttuii)": // path, argv, …
		for _, v := range data.([]any) {
			var words []string
			for _, w := range v.([]any)[1].([]any) {
				words = append(words, w.(string))
			}
			values = append(values, quoteAll(words))
		}
	default:
		return nil
	}
	return values
}

// syntaxWarnings are the beginnings of the messages that are about syntax and
// not about the value of a setting.
var syntaxWarnings = []string{
	"Unknown key '", "Unknown section '", "Assignment outside of section. Ignoring.", "Missing '=', ignoring line.",
	"Missing key name before '=', ignoring line.", "Invalid section header", "Bad characters in section header", "String is not UTF-8 clean",
}

// readJournal returns the syntax warnings per file, in order.
func readJournal(t *testing.T, path string) map[string][]event {
	t.Helper()
	all := map[string][]event{}
	readLines(t, path, func(line string) {
		var entry struct {
			File    string `json:"CONFIG_FILE"`
			Line    string `json:"CONFIG_LINE"`
			Message any    `json:"MESSAGE"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("reading the journal: %v: %.200s", err, line)
		}
		if entry.File == "" {
			return
		}
		number, err := strconv.Atoi(entry.Line)
		if err != nil {
			t.Fatalf("reading the journal: %v: %.200s", err, line)
		}
		message := ""
		switch m := entry.Message.(type) {
		case string:
			message = m
		case []any: // bytes, where some are not printable
			for _, b := range m {
				message += string([]byte{byte(b.(float64))})
			}
		}
		_, text, _ := strings.Cut(message, entry.Line+": ")
		for _, w := range syntaxWarnings {
			if strings.HasPrefix(text, w) {
				all[entry.File] = append(all[entry.File], event{number, text})
			}
		}
	})
	return all
}

func readLines(t *testing.T, path string, each func(string)) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		each(lines.Text())
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("reading %s: %v", path, err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
