package cmdline

import (
	"reflect"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	one := func(name string) []Word { return []Word{{Name: name}} }
	set := func(name, value string) []Word { return []Word{{name, value, true}} }
	cases := map[string][]Word{
		"":                        nil,
		" \t\n\v\f\r\xa0":         nil,
		"ro":                      one("ro"),
		"  ro  ":                  one("ro"),
		"a=b":                     set("a", "b"),
		"a=":                      set("a", ""),
		"a==b":                    set("a", "=b"),
		"=a":                      one("=a"),
		"=a=b":                    set("=a", "b"),
		"=":                       one("="),
		`a="b c"`:                 set("a", "b c"),
		`"a=b c"`:                 set("a", "b c"),
		`"a b"`:                   one("a b"),
		`a="b"c`:                  set("a", `b"c`),
		`a=b" "c`:                 set("a", `b" "c`),
		`a=b"`:                    set("a", `b"`),
		`a="`:                     set("a", ""),
		`a=""`:                    set("a", ""),
		`"`:                       one(""),
		`""`:                      one(""),
		`a" b"`:                   one(`a" b"`),
		`a" =b"`:                  set(`a" `, `b"`),
		`a="b c`:                  set("a", "b c"),
		"a=b\xa0c":                {{"a", "b", true}, {"c", "", false}},
		"a=b'c d'":                {{"a", "b'c", true}, {"d'", "", false}},
		"a -- root=b":             one("a"),
		"--a -- b":                one("--a"),
		`a "--" b`:                one("a"),
		"--=b c":                  {{"--", "b", true}, {"c", "", false}},
		"root=/dev/vda ro quiet":  {{"root", "/dev/vda", true}, {"ro", "", false}, {"quiet", "", false}},
		`"root=PARTLABEL=a b" ro`: {{"root", "PARTLABEL=a b", true}, {"ro", "", false}},
	}
	for line, want := range cases {
		if got := Split(line); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", line, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	forever := Wait{true, -1}
	cases := map[string]Boot{
		"":                                {},
		"root=/dev/vda":                   {Root: "/dev/vda"},
		"root=/dev/vda root=/dev/vdb":     {Root: "/dev/vdb"},
		"root=" + strings.Repeat("x", 70): {Root: strings.Repeat("x", 63)},
		"rw":                              {Writable: true},
		"rw ro":                           {},
		"ro rw":                           {Writable: true},
		"rw=1":                            {},
		"rootfstype=ext4":                 {Types: []string{"ext4"}},
		"rootfstype=,xfs,,ext4,":          {Types: []string{"xfs", "ext4"}},
		"rootfstype=":                     {},
		`rootflags="a=b c"`:               {Flags: "a=b c"},
		"rootdelay=5":                     {Delay: 5},
		"rootdelay=0x10s":                 {Delay: 16},
		"rootdelay=010":                   {Delay: 8},
		"rootdelay=x":                     {},
		"rootwait":                        {Wait: forever},
		"rootwait=5":                      {Wait: Wait{true, 5}},
		"rootwait=0":                      {Wait: Wait{true, 0}},
		"rootwait=5s":                     {Wait: forever},
		"rootwait=-1":                     {Wait: forever},
		"rootwait=":                       {Wait: forever},
		"rootwait=99999999":               {Wait: forever},
		"init=/bin/sh":                    {Init: "/bin/sh", HasInit: true},
		"init=":                           {HasInit: true},
		"init":                            {},
		"root":                            {},
		"-- root=/dev/vda rw":             {},
		"noroot=/dev/vda xrw":             {},
	}
	for line, want := range cases {
		if got := Parse(line); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", line, got, want)
		}
	}
}

func TestParseRoot(t *testing.T) {
	cases := map[string]Root{
		"":                                {},
		"/dev/vda":                        {Kind: Disk, Name: "vda", Source: "vda"},
		"/dev/cciss/c0d0p1":               {Kind: Disk, Name: "cciss!c0d0p1", Source: "cciss/c0d0p1"},
		"259:1":                           {Kind: Number, Major: 259, Minor: 1, Source: "259:1"},
		"8:1:0":                           {Kind: Number, Major: 8, Minor: 1, Source: "8:1:0"},
		"4095:1048575":                    {Kind: Number, Major: 4095, Minor: 1048575, Source: "4095:1048575"},
		"b302":                            {Kind: Number, Major: 0xb3, Minor: 2, Source: "b302"},
		"0xB302":                          {Kind: Number, Major: 0xb3, Minor: 2, Source: "0xB302"},
		"10300":                           {Kind: Number, Major: 259, Minor: 0, Source: "10300"},
		"12310304":                        {Kind: Number, Major: 0x103, Minor: 0x12304, Source: "12310304"},
		"4096:1":                          {Kind: Tag, Source: "4096:1"},
		"1:1048576":                       {Kind: Tag, Source: "1:1048576"},
		"1:":                              {Kind: Tag, Source: "1:"},
		":1":                              {Kind: Tag, Source: ":1"},
		"0":                               {Kind: Tag, Source: "0"},
		"0x":                              {Kind: Tag, Source: "0x"},
		"myfs":                            {Kind: Tag, Source: "myfs"},
		"PARTLABEL=a b":                   {Kind: PartLabel, Name: "a b", Source: "PARTLABEL=a b"},
		"PARTUUID=1234abcd-01":            {Kind: PartUUID, Name: "1234abcd-01", Source: "PARTUUID=1234abcd-01"},
		"PARTUUID=ab/PARTNROFF=2":         {Kind: PartUUID, Name: "ab", Offset: 2, Source: "PARTUUID=ab/PARTNROFF=2"},
		"PARTUUID=ab/PARTNROFF=-2":        {Kind: PartUUID, Name: "ab", Offset: -2, Source: "PARTUUID=ab/PARTNROFF=-2"},
		"PARTUUID=ab/PARTNROFF=99999999":  {Kind: Impossible},
		"PARTUUID=ab/PARTNROFF=":          {Kind: Impossible},
		"PARTUUID=ab/PARTNROFF=1x":        {Kind: Impossible},
		"PARTUUID=ab/x":                   {Kind: Impossible},
		"PARTUUID=":                       {Kind: Impossible},
		"PARTUUID=/PARTNROFF=1":           {Kind: Impossible},
		"UUID=ab":                         {Kind: Impossible},
		"LABEL=ab":                        {Kind: Impossible},
		"mtd0":                            {Kind: Impossible},
		"ubi0:root":                       {Kind: Impossible},
		"/dev/nfs":                        {Kind: Impossible},
		"/dev/cifs":                       {Kind: Impossible},
		"/dev/ram":                        {Kind: Impossible},
		"/dev/":                           {Kind: Impossible},
		"/dev/" + strings.Repeat("x", 32): {Kind: Impossible},
	}
	for in, want := range cases {
		got := ParseRoot(in)
		if got.Kind == Impossible {
			if got.Reason == "" {
				t.Errorf("%q: no reason", in)
			}
			got = Root{Kind: Impossible}
		}
		if got != want {
			t.Errorf("%q: got %+v, want %+v", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`root=/dev/vda "a=b c" rootfstype=a,b -- x`, `a="`, `"`, "rootwait=0x7fffffffffffffffffff", "=", "root=PARTUUID=1/PARTNROFF=-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		letters := 0
		for _, w := range Split(line) {
			letters += len(w.Name) + len(w.Value)
			if !w.Assigned && w.Value != "" {
				t.Errorf("%q: %+v", line, w)
			}
		}
		if letters > len(line) {
			t.Errorf("%q: %d bytes came out", line, letters)
		}
		// What is appended behind words that are whole does not change them.
		if !strings.Contains(line, `"`) && !strings.Contains(" "+line+" ", " -- ") {
			want := append(Split(line), Word{Name: "more"})
			if got := Split(line + " more"); !strings.Contains(line, "--") && !reflect.DeepEqual(got, want) {
				t.Errorf("%q: got %+v, want %+v", line, got, want)
			}
		}
		b := Parse(line)
		if len(b.Root) > maxRoot {
			t.Errorf("%q: a root of %d bytes", line, len(b.Root))
		}
		for _, s := range b.Types {
			if s == "" || strings.Contains(s, ",") {
				t.Errorf("%q: type %q", line, s)
			}
		}
		r := ParseRoot(b.Root)
		if (r.Kind == Impossible) != (r.Reason != "") || (r.Kind == Nothing) != (b.Root == "") || r.Major > 0xfff || r.Minor > 0xfffff || strings.Contains(r.Name, "/") && r.Kind == Disk {
			t.Errorf("%q: %+v", b.Root, r)
		}
	})
}
