package unitfile_test

import (
	"fmt"

	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

func ExampleParse() {
	f := unitfile.Parse("/etc/web.service", "main", []byte(`[Service]
ExecStart=/bin/web \
    --port=80
Environment=A=1 # the first
forgotten
`))
	for _, a := range f.Assignments {
		fmt.Printf("%s: %s.%s = %q\n", a.Origin, a.Section, a.Key, a.Value)
		for _, flaw := range a.Flaws {
			fmt.Printf("%s: %s\n", flaw.Origin, flaw.Kind)
		}
	}
	for _, p := range f.Problems {
		fmt.Printf("%s: %s\n", p.Origin, p.Kind)
	}
	// Output:
	// /etc/web.service:2: Service.ExecStart = "/bin/web      --port=80"
	// /etc/web.service:4: Service.Environment = "A=1 # the first"
	// /etc/web.service:4: trailing comment
	// /etc/web.service:5: missing '='
}

func ExampleFormat() {
	data, err := unitfile.Format([]unitfile.Block{
		{Comment: "Written by an example."},
		{Name: "Service", Entries: []unitfile.Entry{
			{Key: "Environment", Value: unitfile.QuoteWord("GREETING=Hello,\nworld")},
			{Comment: "A backslash and a NUL byte", Key: "SetCredential", Value: "name:" + unitfile.EscapeValue("\\\x00")},
		}},
	})
	fmt.Printf("%s%v", data, err)
	// Output:
	// # Written by an example.
	//
	// [Service]
	// Environment="GREETING=Hello,\x0aworld"
	// # A backslash and a NUL byte
	// SetCredential=name:\\\x00
	// <nil>
}

func ExampleSplitCommands() {
	commands, _, err := unitfile.SplitCommands(`/bin/echo "one two" \; ; /bin/true`)
	fmt.Printf("%q %v\n", commands, err)
	// Output: [["/bin/echo" "one two" ";"] ["/bin/true"]] <nil>
}
