package microvmnix

import (
	"strings"
	"testing"
)

func TestCredentials(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"plain", `cat $CREDENTIALS_DIRECTORY/API_KEY`, "API_KEY:2"},
		{"braces and quotes", `cat "${CREDENTIALS_DIRECTORY}/api-key"` + "\n" + `cat "$CREDENTIALS_DIRECTORY"/db.pass`, "api-key:2 db.pass:3"},
		{"default", `k=$(<"${CREDENTIALS_DIRECTORY:-/run/credentials/x.service}/K")`, "K:2"},
		{"absolute", `cat /run/credentials/microvm@test-vm.service/API_KEY`, "API_KEY:2"},
		{"unit in a variable", `cat "/run/credentials/$unit/API_KEY"`, "API_KEY:2"},
		{"variable", "d=$CREDENTIALS_DIRECTORY\ncat \"$d/K\"", "K:3"},
		{"test", `if [ -f "$CREDENTIALS_DIRECTORY/K" ]; then echo; fi`, "K:2"},
		{"loop", "for n in A B; do cat \"$CREDENTIALS_DIRECTORY/$n\"; done", "A:2 B:2"},
		{"all", "for f in \"$CREDENTIALS_DIRECTORY\"/*; do cat \"$f\"; done", "*:2"},
		{"function", "get() { cat \"$CREDENTIALS_DIRECTORY/$1\"; }\nget API_KEY\nget DB", "API_KEY:3 DB:4"},
		{"function with a suffix", "get() { cat \"$CREDENTIALS_DIRECTORY/vm-$2.key\"; }\nget x A", "vm-A.key:3"},
		{"made up", `cat "$CREDENTIALS_DIRECTORY/$(hostname)"`, ":2"},
		{"heredoc", "python3 - <<EOF\nopen('$CREDENTIALS_DIRECTORY/K')\nEOF", "K:3"},
		{"twice", `cat $CREDENTIALS_DIRECTORY/K; cat $CREDENTIALS_DIRECTORY/K`, "K:2"},
		{"the directory alone", `ls "$CREDENTIALS_DIRECTORY"`, ""},
		{"none", "echo hello", ""},
		{"no shell any more", "if then\ncat $CREDENTIALS_DIRECTORY/K", "K:3"},
	} {
		s, _ := ParseScript("/run", []byte("#!/bin/bash\n"+c.text+"\n"))
		var got []string
		for _, k := range s.Credentials {
			got = append(got, k.Name+":"+string(rune('0'+k.Line)))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.name, strings.Join(got, " "), c.want)
		}
	}
	doubled := "#!/bin/bash\nx=$CREDENTIALS_DIRECTORY/K\n" + strings.Repeat("x=$x$x\n", 100) + "cat $x\n"
	if s, _ := ParseScript("/run", []byte(doubled)); len(s.Credentials) == 0 || s.Credentials[0].Name != "K" {
		t.Errorf("of a variable that doubles: %v", s.Credentials)
	}
	python := "#!/usr/bin/python3\nimport os\nk = open(os.environ['CREDENTIALS_DIRECTORY'] + '/API_KEY').read()\n"
	if got := Credentials([]byte(python)); len(got) != 1 || got[0] != (Credential{Name: "API_KEY", Line: 3}) {
		t.Errorf("of Python: %v", got)
	}
}
