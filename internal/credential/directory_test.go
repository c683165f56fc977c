package credential

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
)

// under makes a $CREDENTIALS_DIRECTORY with some files in it.
func under(t *testing.T, files ...string) *world {
	w := newWorld(t).mkdir("cd")
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		w.file("cd/"+name, content)
	}
	w.env.Directory = w.path("cd")
	w.env.Marker = "MISSING"
	return w
}

const cure = ", or unset CREDENTIALS_DIRECTORY to read the sources by hand"

func TestDirectoryIsAuthoritative(t *testing.T) {
	w := under(t, "key=loaded", "set=from the unit", "empty=", "ampoule.plan={}").file("key", "another").file("etc/credstore/stored", "x")
	w.one("LoadCredential=key:DIR/key", "key=loaded ($CREDENTIALS_DIRECTORY)")
	w.one("LoadCredential=key", "key=loaded ($CREDENTIALS_DIRECTORY)")
	w.one("LoadCredentialEncrypted=key:/x", "key=loaded ($CREDENTIALS_DIRECTORY)") // decrypted by systemd
	w.one("LoadCredential=empty:/x", "empty= ($CREDENTIALS_DIRECTORY)")
	w.one("SetCredential=set:from the plan", "set=from the unit ($CREDENTIALS_DIRECTORY)")
	w.one("SetCredential=nothing:", "nothing= (plan)") // systemd drops an empty value
	w.expect([]string{"LoadCredential=key:DIR/absent", "SetCredential=key:default"}, []string{"key=loaded ($CREDENTIALS_DIRECTORY)"}, nil)
	in := " is not in $CREDENTIALS_DIRECTORY (DIR/cd); add "
	w.one("LoadCredential=stored", "vm:1: LoadCredential=stored: credential stored"+in+"LoadCredential=stored:PATH to [Service] of the unit"+cure)
	w.one("LoadCredentialEncrypted=e:DIR/key", "vm:1: LoadCredentialEncrypted=e:DIR/key: credential e"+in+"LoadCredentialEncrypted=e:PATH to [Service] of the unit"+cure)
	w.one("SetCredential=gone:secret?", "vm:1: SetCredential=gone:…: credential gone"+in+"SetCredential=gone:VALUE to [Service] of the unit"+cure)
	w.one("SetCredentialEncrypted=gone:blob", "vm:1: SetCredentialEncrypted=gone:…: credential gone"+in+"SetCredentialEncrypted=gone:BLOB to [Service] of the unit"+cure)
	w.expect([]string{"LoadCredential=gone:/x", "SetCredential=gone:y"}, nil, []string{
		"vm:1: LoadCredential=gone:/x: credential gone" + in + "LoadCredential=gone:PATH to [Service] of the unit" + cure})
}

// A source that was not there is named, by the mark that the unit left for it.
func TestDirectoryMarks(t *testing.T) {
	w := under(t, "file=MISSING", "name=MISSING", "other=MISSING", "dir=MISSING", "dir_a=1", "host=MISSING")
	w.service("LoadCredential=host:/run/host")
	w.one("LoadCredential=file:/run/x", "vm:1: LoadCredential=file:/run/x: the source /run/x of credential file was not there when the unit was started, or is an empty directory; create it before the start, or give a default with SetCredential=file:VALUE")
	w.one("LoadCredential=name", "vm:1: LoadCredential=name: credential name was found nowhere when the unit was started; put it into a credential store, such as /etc/credstore/name")
	w.one("LoadCredential=other:stored", "vm:1: LoadCredential=other:stored: credential stored, the source of other, was found nowhere when the unit was started; put it into a credential store, such as /etc/credstore/stored")
	w.one("LoadCredential=dir:/run/d", "dir_a=1 ($CREDENTIALS_DIRECTORY)")
	w.one("Credential=guest:host", "vm:1: Credential=guest:host: the source /run/host of credential host was not there when the unit was started, or is an empty directory; create it before the start, or give a default with SetCredential=host:VALUE")
	w.env.Marker = ""
	w.one("LoadCredential=file:/run/x", "file=MISSING ($CREDENTIALS_DIRECTORY)")
}

func TestDirectoryWithDirectorySources(t *testing.T) {
	w := under(t, "k_a=1", "k_sub_b=2", "kx=3", "one=4", "one_more=5", "both=default", "both_a=6")
	w.one("LoadCredential=k:/run/d", "k_a=1 ($CREDENTIALS_DIRECTORY)", "k_sub_b=2 ($CREDENTIALS_DIRECTORY)")
	w.one("LoadCredential=k", "vm:1: LoadCredential=k: credential k is not in $CREDENTIALS_DIRECTORY (DIR/cd); add LoadCredential=k:PATH to [Service] of the unit"+cure)
	// A file is a file: what else begins alike is not its.
	w.one("LoadCredential=one:/run/f", "one=4 ($CREDENTIALS_DIRECTORY)")
	w.expect([]string{"LoadCredential=both:/run/d", "SetCredential=both:default"},
		[]string{"both=default ($CREDENTIALS_DIRECTORY)", "both_a=6 ($CREDENTIALS_DIRECTORY)"}, nil)
	// Names that have a line of their own, or a longer prefix, are not taken twice.
	w.expect([]string{"LoadCredential=k:/run/d", "LoadCredential=k_a:/run/f", "LoadCredential=k_sub:/run/sub"},
		[]string{"k_a=1 ($CREDENTIALS_DIRECTORY)", "k_sub_b=2 ($CREDENTIALS_DIRECTORY)"},
		nil)
}

// What may be the host's alone does not go into the guest by its name.
func TestDirectoryKeepsTheHostsOwn(t *testing.T) {
	clash := func(origin string) string {
		return "vm:1: LoadCredential=k:/run/d: credential k_a can be a file of this directory or the host's own from " + origin + "; choose another name for one of them"
	}
	for _, line := range []string{"LoadCredential=k_a:/x", "SetCredential=k_a:x", "ImportCredential=k_*", "ImportCredential=x*:k_", "LoadCredential=k:/run/other"} {
		w := under(t, "k_a=1").service("LoadCredential=unrelated:/y", line)
		w.one("LoadCredential=k:/run/d", clash("service:2"))
	}
	w := under(t, "net.a=1", "net.b=2").service("LoadCredential=net.a:/x")
	w.one("ImportCredential=net.*", "net.b=2 ($CREDENTIALS_DIRECTORY)",
		"vm:1: note: ImportCredential=net.*: credential net.a stays on the host, because [Service] loads it at service:1; Credential=net.a would pass it on")
	w.expect([]string{"ImportCredential=net.*", "Credential=x:net.a"}, []string{"net.b=2 ($CREDENTIALS_DIRECTORY)", "x=1 ($CREDENTIALS_DIRECTORY)"}, nil)
}

func TestDirectoryImport(t *testing.T) {
	w := under(t, "net.a=1", "net.b=2", "web-c=3", ".hidden=4", "ampoule.plan={}")
	w.one("ImportCredential=net.*", "net.a=1 ($CREDENTIALS_DIRECTORY)", "net.b=2 ($CREDENTIALS_DIRECTORY)")
	w.one("ImportCredential=net.a", "net.a=1 ($CREDENTIALS_DIRECTORY)")
	w.one("ImportCredential=*", "net.a=1 ($CREDENTIALS_DIRECTORY)", "net.b=2 ($CREDENTIALS_DIRECTORY)", "web-c=3 ($CREDENTIALS_DIRECTORY)")
	// Renamed by systemd, or not yet.
	w.one("ImportCredential=original.*:web-", "web-c=3 ($CREDENTIALS_DIRECTORY)")
	w.one("ImportCredential=net.*:new-", "new-a=1 ($CREDENTIALS_DIRECTORY)", "new-b=2 ($CREDENTIALS_DIRECTORY)")
	w.one("ImportCredential=none*", "vm:1: warning: ImportCredential=none*: none* matches nothing in $CREDENTIALS_DIRECTORY (DIR/cd)")
	w.expect([]string{"ImportCredential=net.*", "ImportCredential=*", "SetCredential=net.b:default", "LoadCredential=net.a:/x"},
		[]string{"net.a=1 ($CREDENTIALS_DIRECTORY)", "net.b=2 ($CREDENTIALS_DIRECTORY)", "web-c=3 ($CREDENTIALS_DIRECTORY)"}, nil)
}

func TestDirectoryPass(t *testing.T) {
	w := under(t, "host=1")
	w.one("Credential=guest:host", "guest=1 ($CREDENTIALS_DIRECTORY)")
	w.one("Credential=host", "host=1 ($CREDENTIALS_DIRECTORY)")
	w.one("Credential=guest:other", "vm:1: Credential=guest:other: credential other is not in $CREDENTIALS_DIRECTORY (DIR/cd); add LoadCredential=other:PATH to [Service] of the unit"+cure)
	w.expect([]string{"LoadCredential=guest:/x", "Credential=guest:host"}, nil,
		[]string{"vm:1: LoadCredential=guest:/x: credential guest is not in $CREDENTIALS_DIRECTORY (DIR/cd); add LoadCredential=guest:PATH to [Service] of the unit" + cure})
}

func TestBadCredentialsDirectories(t *testing.T) {
	w := under(t, "big="+strings.Repeat("x", rule.MaxSize+1)).mkdir("cd/dir")
	w.one("LoadCredential=big:/x", "vm:1: LoadCredential=big:/x: DIR/cd/big is too large; at most 1048576 bytes are possible")
	w.one("LoadCredential=dir:/x", "vm:1: LoadCredential=dir:/x: DIR/cd/dir is a directory; a credential is a regular file there")
	w.env.Directory = w.path("absent")
	w.one("LoadCredential=a:/x", "vm:1: LoadCredential=a:/x: $CREDENTIALS_DIRECTORY (DIR/absent) cannot be listed: no such file or directory")
	w.one("ImportCredential=*", "vm:1: ImportCredential=*: $CREDENTIALS_DIRECTORY (DIR/absent) cannot be listed: no such file or directory")
	// Links, as other managers make them, are followed.
	w = under(t, "..data=no")
	w.file("elsewhere", "value")
	w.link("cd/key", "DIR/elsewhere")
	w.one("LoadCredential=key:/x", "key=value ($CREDENTIALS_DIRECTORY)")
}
