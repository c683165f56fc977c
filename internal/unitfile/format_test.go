package unitfile_test

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

func TestFormat(t *testing.T) {
	got, err := unitfile.Format([]unitfile.Block{
		{Comment: "Generated from /etc/x.\n\n  Do not edit. # really\n"},
		{Name: "Unit", Entries: []unitfile.Entry{
			{Key: "Description", Value: "a  b # c"},
			{Comment: "/etc/x:3", Key: "After", Value: ""},
		}},
		{Comment: "the service", Name: "Service", Entries: []unitfile.Entry{
			{Key: "Environment", Value: `A=1\`},
			{Key: "\uFEFFKey", Value: `A=1\\`},
			{Key: "k", Value: "\v[x]="},
		}},
		{Name: "Service"},
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = `# Generated from /etc/x.
#
#   Do not edit. # really

[Unit]
Description=a  b # c
# /etc/x:3
After=

# the service
[Service]
` + "Environment=A=1\\ \n \uFEFFKey=A=1\\\\\nk=\v[x]=\n\n[Service]\n"
	if string(got) != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	const parsed = `5 [Unit]
11 [Service]
16 [Service]
6 Unit.Description="a  b # c" {6 trailing comment "#"}
8 Unit.After=""
12 Service.Environment="A=1\\" {12 blank after backslash}
13 Service.` + "\uFEFF" + `Key="A=1\\\\"
14 Service.k="\v[x]="
`
	if again := dump(unitfile.Parse("f", "", got)); again != parsed {
		t.Errorf("parsed again:\n%s\nwant:\n%s", again, parsed)
	}
	if empty, err := unitfile.Format(nil); len(empty) != 0 || err != nil {
		t.Errorf("nothing: got %q, %v", empty, err)
	}
}

func TestFormatRefuses(t *testing.T) {
	entry := func(key, value string) unitfile.Block {
		return unitfile.Block{Name: "S", Entries: []unitfile.Entry{{Key: key, Value: value}}}
	}
	long := strings.Repeat("x", unitfile.MaxLine)
	for _, c := range []struct {
		name  string
		block unitfile.Block
		want  string
	}{
		{"no name", unitfile.Block{}, `writing section "": assignments need a section`},
		{"no name but entries", unitfile.Block{Comment: "c", Entries: []unitfile.Entry{{Key: "A"}}}, `writing section "": assignments need a section`},
		{"newline in name", unitfile.Block{Name: "S]\nA=1\n[T"}, `writing section "S]\nA=1\n[T": quotes, backslashes and control characters are refused in a section header`},
		{"quote in name", unitfile.Block{Name: `"`}, `writing section "\"": quotes, backslashes and control characters are refused in a section header`},
		{"encoding of name", unitfile.Block{Name: "\xff"}, `writing section "\xff": only valid UTF-8 can be written`},
		{"long name", unitfile.Block{Name: long}, "the line would reach 1 MiB"},
		{"CR in comment", unitfile.Block{Comment: "a\rA=1", Name: "S"}, "writing the comment above [S]: line ends and NUL cannot be written"},
		{"NUL in comment", unitfile.Block{Name: "S", Entries: []unitfile.Entry{{Comment: "a\x00", Key: "A"}}}, "writing the comment above S.A: line ends and NUL cannot be written"},
		{"long comment", unitfile.Block{Comment: long}, "the line would reach 1 MiB"},
		{"empty key", entry("", "sesame"), `writing "" in section "S": the key is empty`},
		{"newline in key", entry("A\nB", "sesame"), `writing "A\nB" in section "S": line ends and NUL cannot be written`},
		{"newline in value", entry("A", "1\nsesame"), `writing "A" in section "S": line ends and NUL cannot be written`},
		{"CR in value", entry("A", "1\rsesame"), `writing "A" in section "S": line ends and NUL cannot be written`},
		{"NUL in value", entry("A", "1\x00sesame"), `writing "A" in section "S": line ends and NUL cannot be written`},
		{"equals in key", entry("A=B", "sesame"), `writing "A=B" in section "S": the key contains "="`},
		{"comment as key", entry("#A", "sesame"), `writing "#A" in section "S": the line would read as a comment or as a section header`},
		{"other comment as key", entry(";A", "sesame"), `writing ";A" in section "S": the line would read as a comment or as a section header`},
		{"header as key", entry("[A", "sesame]"), `writing "[A" in section "S": the line would read as a comment or as a section header`},
		{"blank before key", entry(" A", "sesame"), `writing " A" in section "S": blanks at the start or the end would be lost`},
		{"blank before value", entry("A", "\tsesame"), `writing "A" in section "S": blanks at the start or the end would be lost`},
		{"blank behind value", entry("A", "sesame "), `writing "A" in section "S": blanks at the start or the end would be lost`},
		{"encoding of key", entry("\xff", "sesame"), `writing "\xff" in section "S": only valid UTF-8 can be written`},
		{"encoding of value", entry("A", "sesame\xff"), `writing "A" in section "S": only valid UTF-8 can be written`},
		{"noncharacter in value", entry("A", "sesame\uFFFE"), `writing "A" in section "S": only valid UTF-8 can be written`},
		{"long value", entry("A", long[:unitfile.MaxLine-4]), `writing "A" in section "S": the line would reach 1 MiB`},
	} {
		out, err := unitfile.Format([]unitfile.Block{c.block})
		if out != nil || err == nil || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%s: got %q, %v; want %s", c.name, out, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: the error repeats the value: %v", c.name, err)
		}
	}
	for _, key := range []string{"A", "\uFEFFA"} {
		value := strings.Repeat("x", unitfile.MaxLine-4-len(key)-1) + `\`
		data, err := unitfile.Format([]unitfile.Block{entry(key, value)})
		if err != nil {
			t.Fatalf("longest value: %v", err)
		}
		if f := unitfile.Parse("f", "", data); len(f.Assignments) != 1 || f.Assignments[0].Value != value || f.Assignments[0].Key != key {
			t.Errorf("longest value of %q was not read back: %v", key, f.Problems)
		}
	}
}
