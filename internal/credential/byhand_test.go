package credential

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
)

// one runs an assignment by itself.
func (w *world) one(line string, want ...string) {
	w.t.Helper()
	var creds, problems []string
	for _, s := range want {
		if strings.HasPrefix(s, "vm:") || strings.HasPrefix(s, "service:") {
			problems = append(problems, s)
		} else {
			creds = append(creds, s)
		}
	}
	w.expect([]string{line}, creds, problems)
}

func TestLoadFiles(t *testing.T) {
	w := newWorld(t).file("key", "a\x00b\nc=,\"'%").file("empty", "").file("open", "x").mkdir("etc")
	w.mode("open", 0o644)
	w.link("link", "DIR/key")
	w.link("broken", "DIR/nowhere")
	w.link("loop", "loop")
	w.one("LoadCredential=k:DIR/key", "k=a\x00b\nc=,\"'% (file DIR/key)")
	w.one("LoadCredential=k:DIR/empty", "k= (file DIR/empty)")
	w.one("LoadCredential=k:DIR/link", "k=a\x00b\nc=,\"'% (file DIR/link)")
	w.one("LoadCredential=k:DIR/open", "k=x (file DIR/open)",
		"vm:1: warning: LoadCredential=k:DIR/open: not only its owner may read DIR/open (mode 0644); chmod 0600 DIR/open")
	w.one("LoadCredentialEncrypted=k:DIR/open", "k=decrypted[k]x (file DIR/open)")
	w.one("LoadCredential=k:DIR/absent", "vm:1: LoadCredential=k:DIR/absent: DIR/absent does not exist; create it before the start")
	w.one("LoadCredential=k:DIR/broken", "vm:1: LoadCredential=k:DIR/broken: DIR/broken does not exist; create it before the start")
	w.one("LoadCredential=k:DIR/loop", "vm:1: LoadCredential=k:DIR/loop: DIR/loop cannot be read: too many levels of symbolic links (ELOOP)")
	w.one("LoadCredential=k:DIR/key/sub", "vm:1: LoadCredential=k:DIR/key/sub: DIR/key/sub cannot be read: not a directory (ENOTDIR)")
	w.one("LoadCredential=k:/dev/null", "vm:1: LoadCredential=k:/dev/null: /dev/null is a device; a source is a file, a directory, a FIFO or an AF_UNIX stream socket")
	w.one("LoadCredential=k:DIR/../x", "vm:1: LoadCredential=k:DIR/../x: the path contains \"..\"; "+rule.PathForm)
	w.one("LoadCredential=k:sub/key", "vm:1: LoadCredential=k:sub/key: the source is neither a path nor a name: the name contains '/'; give an absolute path, or the name of a credential in a store")
}

// Set is the default of a Load whose file is not there, and of nothing else.
func TestDefaults(t *testing.T) {
	w := newWorld(t).file("key", "loaded").file("store", "").file("etc/credstore/named", "stored").mkdir("dir")
	w.expect([]string{"LoadCredential=k:DIR/absent", "SetCredential=k:default"}, []string{"k=default (plan)"}, nil)
	w.expect([]string{"SetCredential=k:default", "LoadCredential=k:DIR/key"}, []string{"k=loaded (file DIR/key)"}, nil)
	w.expect([]string{"SetCredential=named:default", "LoadCredential=named"}, []string{"named=stored (credstore DIR/etc/credstore/named)"}, nil)
	w.expect([]string{"SetCredential=nowhere:default", "LoadCredential=nowhere"}, []string{"nowhere=default (plan)"}, nil)
	w.expect([]string{"SetCredential=named:default", "ImportCredential=na*"}, []string{"named=stored (credstore DIR/etc/credstore/named)"}, nil)
	w.expect([]string{"LoadCredential=named:DIR/absent", "SetCredential=named:default", "ImportCredential=na*"},
		[]string{"named=stored (credstore DIR/etc/credstore/named)"}, nil)
	w.expect([]string{"LoadCredential=k:DIR/key/sub", "SetCredential=k:default"}, nil,
		[]string{"vm:1: LoadCredential=k:DIR/key/sub: DIR/key/sub cannot be read: not a directory (ENOTDIR)"})
	w.expect([]string{"LoadCredential=k:/dev/null", "SetCredential=k:default"}, nil,
		[]string{"vm:1: LoadCredential=k:/dev/null: /dev/null is a device; a source is a file, a directory, a FIFO or an AF_UNIX stream socket"})
	w.expect([]string{"SetCredential=k:", "SetCredentialEncrypted=e:blob"}, []string{"e=decrypted[e]blob (plan)", "k= (plan)"}, nil)
	w.expect([]string{"SetCredentialEncrypted=e:garbage"}, nil,
		[]string{"vm:1: SetCredentialEncrypted=e:…: systemd-creds does not decrypt it; encrypt it on this host, with systemd-creds encrypt --name=NAME"})
}

func TestLoadDirectories(t *testing.T) {
	w := newWorld(t).file("d/a", "1").file("d/sub/b", "2").file("d/sub/deep/c", "3").file("d/with blank", "4").file("d/old~", "5").
		file("d/.hidden", "no").file("d/.git/config", "no").mkdir("empty/sub")
	w.link("d/link", "DIR/d/a")
	w.link("d/linked", "DIR/d/sub")
	w.fifo("d/fifo")
	w.mode("d/a", 0o640)
	w.mode("d/sub/b", 0o604)
	w.one("LoadCredential=k:DIR/d",
		"k_a=1 (file DIR/d/a)", "k_old~=5 (file DIR/d/old~)", "k_sub_b=2 (file DIR/d/sub/b)", "k_sub_deep_c=3 (file DIR/d/sub/deep/c)", "k_with blank=4 (file DIR/d/with blank)",
		"vm:1: warning: LoadCredential=k:DIR/d: not only its owner may read DIR/d/a (mode 0640), and 1 more files of the directory; chmod 0600 DIR/d/a")
	w.one("LoadCredentialEncrypted=k:DIR/d/sub", "k_b=decrypted[k_b]2 (file DIR/d/sub/b)", "k_deep_c=decrypted[k_deep_c]3 (file DIR/d/sub/deep/c)")
	w.one("LoadCredential=k:DIR/empty",
		"vm:1: LoadCredential=k:DIR/empty: directory DIR/empty holds no file that would become a credential; put files into it, or give a default with SetCredential=k:VALUE")
	w.expect([]string{"LoadCredential=k:DIR/empty", "SetCredential=k:default"}, []string{"k=default (plan)"}, nil)

	// A default belongs to the ID itself, which a directory does not give.
	w.expect([]string{"LoadCredential=k:DIR/d/sub/deep", "SetCredential=k:default"},
		[]string{"k=default (plan)", "k_c=3 (file DIR/d/sub/deep/c)"}, nil)
}

func TestBadDirectories(t *testing.T) {
	w := newWorld(t).file("twice/a/b_c", "1").file("twice/a_b/c", "2").file("names/a:b", "1").file("names/ü", "2").file("long/"+strings.Repeat("x", 254), "").
		mkdir("sock")
	w.one("LoadCredential=k:DIR/twice", "vm:1: LoadCredential=k:DIR/twice: DIR/twice/a/b_c and DIR/twice/a_b/c would both become credential k_a_b_c; rename one of the files")
	w.one("LoadCredential=k:DIR/names",
		`vm:1: LoadCredential=k:DIR/names: DIR/names/a:b cannot become credential "k_a:b": the name contains ':'; `+rule.NameForm,
		`vm:1: LoadCredential=k:DIR/names: DIR/names/ü cannot become credential "k_ü": the name contains byte 0xc3; `+rule.NameForm)
	_, problems := w.gather("LoadCredential=k:DIR/long")
	if len(problems) != 1 || !strings.Contains(problems[0], "the name has 256 bytes") {
		t.Errorf("%q", problems)
	}
	l, err := net.Listen("unix", w.path("sock/s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.one("LoadCredential=k:DIR/sock", "vm:1: LoadCredential=k:DIR/sock: DIR/sock/s is a socket, which systemd does not read inside a directory; name the socket in an assignment of its own")
	// Without end, were it not for the length of names.
	deep := "deep"
	for range 60 {
		deep += "/12345678"
	}
	w.mkdir(deep)
	_, problems = w.gather("LoadCredential=k:DIR/deep")
	if len(problems) != 1 || !strings.Contains(problems[0], "is too deep: its files would get names of more than 255 bytes") {
		t.Errorf("%q", problems)
	}
}

func TestLookupByName(t *testing.T) {
	w := newWorld(t).file("system/a", "received").file("etc/credstore/a", "etc").file("lib/credstore/a", "lib").
		file("lib/credstore/b", "lib").file("etc/credstore.encrypted/b", "sealed").file("etc/credstore.encrypted/only", "sealed").mkdir("etc/credstore/dir")
	w.one("LoadCredential=a", "a=received (credstore DIR/system/a)")
	w.one("LoadCredential=x:a", "x=received (credstore DIR/system/a)")
	w.one("LoadCredential=b", "b=lib (credstore DIR/lib/credstore/b)")
	w.one("LoadCredentialEncrypted=b", "b=decrypted[b]sealed (credstore DIR/etc/credstore.encrypted/b)")
	w.one("LoadCredentialEncrypted=x:a", "x=decrypted[x]received (credstore DIR/system/a)")
	w.one("LoadCredential=only",
		"vm:1: LoadCredential=only: credential only is in none of DIR/system, DIR/etc/credstore, DIR/lib/credstore; give a path (only:PATH), or put a file of that name into one of them")
	w.one("LoadCredential=dir", "vm:1: LoadCredential=dir: DIR/etc/credstore/dir is a directory; a credential store holds regular files")
	w.mode("lib/credstore/b", 0o666)
	w.one("LoadCredential=b", "b=lib (credstore DIR/lib/credstore/b)",
		"vm:1: warning: LoadCredential=b: not only its owner may read DIR/lib/credstore/b (mode 0666); chmod 0600 DIR/lib/credstore/b")
	w.env.SystemDirectory = ""
	w.one("LoadCredential=a", "a=etc (credstore DIR/etc/credstore/a)")
}

func TestImport(t *testing.T) {
	w := newWorld(t).file("system/net.a", "1").file("etc/credstore/net.a", "hidden by the first").file("etc/credstore/net.b", "2").
		file("etc/credstore/.dot", "3").file("etc/credstore.encrypted/net.c", "4").file("etc/credstore.encrypted/net.b", "hidden").
		file("etc/credstore/ampoule.plan", "never").file("bad/garbage", "garbage")
	w.one("ImportCredential=net.*", "net.a=1 (credstore DIR/system/net.a)", "net.b=2 (credstore DIR/etc/credstore/net.b)",
		"net.c=decrypted[net.c]4 (credstore DIR/etc/credstore.encrypted/net.c)")
	w.one("ImportCredential=net.b", "net.b=2 (credstore DIR/etc/credstore/net.b)")
	w.one("ImportCredential=net.*:guest-", "guest-a=1 (credstore DIR/system/net.a)", "guest-b=2 (credstore DIR/etc/credstore/net.b)",
		"guest-c=decrypted[guest-c]4 (credstore DIR/etc/credstore.encrypted/net.c)")
	w.one("ImportCredential=net.b:other", "other=2 (credstore DIR/etc/credstore/net.b)")
	w.one("ImportCredential=.d*", ".dot=3 (credstore DIR/etc/credstore/.dot)")
	w.one("ImportCredential=a*",
		"vm:1: warning: ImportCredential=a*: a* matches nothing in DIR/system, DIR/etc/credstore, DIR/lib/credstore, DIR/etc/credstore.encrypted")
	w.one("ImportCredential=*", "net.a=1 (credstore DIR/system/net.a)", "net.b=2 (credstore DIR/etc/credstore/net.b)",
		"net.c=decrypted[net.c]4 (credstore DIR/etc/credstore.encrypted/net.c)")
	w.one("ImportCredential=*b", "vm:1: ImportCredential=*b: the pattern contains '*'; "+rule.GlobForm)
	// Twice the same file is once; two files for one name are one too many.
	w.expect([]string{"ImportCredential=net.*", "ImportCredential=net.a"},
		[]string{"net.a=1 (credstore DIR/system/net.a)", "net.b=2 (credstore DIR/etc/credstore/net.b)", "net.c=decrypted[net.c]4 (credstore DIR/etc/credstore.encrypted/net.c)"}, nil)
	w.expect([]string{"ImportCredential=net.a:x", "ImportCredential=net.b:x"}, nil,
		[]string{"vm:2: ImportCredential=net.b:x: DIR/etc/credstore.encrypted/net.b would become credential x, as does DIR/system/net.a, from vm:1; keep one of the two",
			"vm:2: ImportCredential=net.b:x: DIR/etc/credstore/net.b would become credential x, as does DIR/system/net.a, from vm:1; keep one of the two"})
	// Load comes first, and what [Service] loads stays on the host.
	w.expect([]string{"LoadCredential=net.a:DIR/etc/credstore/net.b", "ImportCredential=net.a"}, []string{"net.a=2 (file DIR/etc/credstore/net.b)"}, nil)
	w.service("LoadCredential=net.a:/x", "SetCredential=net.c:/x")
	w.one("ImportCredential=net.*", "net.b=2 (credstore DIR/etc/credstore/net.b)",
		"vm:1: note: ImportCredential=net.*: credential net.a stays on the host, because [Service] loads it at service:1; Credential=net.a would pass it on",
		"vm:1: note: ImportCredential=net.*: credential net.c stays on the host, because [Service] loads it at service:2; Credential=net.c would pass it on")
	// What is sealed for another host is not left out.
	w.env.EncryptedStoreDirs = []string{w.path("bad")}
	w.one("ImportCredential=gar*",
		"vm:1: ImportCredential=gar*: file DIR/bad/garbage: systemd-creds does not decrypt it; encrypt it on this host, with systemd-creds encrypt --name=NAME")
}

func TestImportRenamesToNothing(t *testing.T) {
	w := newWorld(t).file("etc/credstore/a", "1")
	w.one("ImportCredential=a*:"+strings.Repeat("x", 256),
		`vm:1: warning: ImportCredential=a*:`+strings.Repeat("x", 117)+`…: DIR/etc/credstore/a is skipped: it cannot become credential "`+strings.Repeat("x", 256)+`"; `+rule.NameForm)
}

func TestPassByHand(t *testing.T) {
	w := newWorld(t).file("key", "loaded").file("d/a", "1").file("d/sub/b", "2").file("etc/credstore/named", "stored").
		file("etc/credstore/net.x", "imported").file("etc/credstore.encrypted/net.y", "sealed")
	w.service("LoadCredential=host:DIR/key", "LoadCredential=dir:DIR/d", "LoadCredential=named", "SetCredential=set:value",
		"ImportCredential=net.*", "ImportCredential=net.*:web-", "LoadCredential=gone:DIR/absent", "LoadCredential=gone2:DIR/absent", "SetCredential=gone2:default",
		"LoadCredentialEncrypted=sealed:DIR/key")
	w.one("Credential=guest:host", "guest=loaded (file DIR/key)")
	w.one("Credential=host", "host=loaded (file DIR/key)")
	w.one("Credential=g:dir_a", "g=1 (file DIR/d/a)")
	w.one("Credential=g:dir_sub_b", "g=2 (file DIR/d/sub/b)")
	w.one("Credential=g:named", "g=stored (credstore DIR/etc/credstore/named)")
	w.one("Credential=g:set", "g=value (plan)")
	w.one("Credential=g:gone2", "g=default (plan)")
	w.one("Credential=g:net.x", "g=imported (credstore DIR/etc/credstore/net.x)")
	w.one("Credential=g:net.y", "g=decrypted[net.y]sealed (credstore DIR/etc/credstore.encrypted/net.y)")
	w.one("Credential=g:web-x", "g=imported (credstore DIR/etc/credstore/net.x)")
	w.one("Credential=g:sealed", "g=decrypted[sealed]loaded (file DIR/key)")
	w.one("Credential=g:dir", "vm:1: Credential=g:dir: dir is a directory of credentials, loaded at service:2; pass its files one by one, as dir_FILE")
	w.one("Credential=g:dir_nothing", "vm:1: Credential=g:dir_nothing: [Service] loads no credential dir_nothing; add LoadCredential=dir_nothing:PATH to [Service]")
	w.one("Credential=g:nothing", "vm:1: Credential=g:nothing: [Service] loads no credential nothing; add LoadCredential=nothing:PATH to [Service]")
	w.one("Credential=g:gone", "service:7: LoadCredential=gone:DIR/absent: DIR/absent does not exist; create it before the start")
	w.expect([]string{"Credential=a:host", "Credential=b:host"}, []string{"a=loaded (file DIR/key)", "b=loaded (file DIR/key)"}, nil)
	w.expect([]string{"LoadCredential=g:DIR/key", "Credential=g:host"}, nil,
		[]string{"vm:2: Credential=g:host: credential g is there already, from vm:1; keep one of the two"})
}

// A name in the guest that is not the host's goes for all files of a directory.
func TestGuestNames(t *testing.T) {
	w := newWorld(t).file("d/a", "1").file("key", "2")
	reqs := w.requests("vm", "LoadCredential=k:DIR/d", "LoadCredential=l:DIR/key")
	reqs[0].Guest, reqs[1].Guest = "other", strings.Repeat("x", 255)
	creds, list := Gather(context.Background(), reqs, w.env)
	defer Wipe(creds)
	if len(list) != 0 || len(creds) != 2 || creds[0].Guest != "other_a" || creds[0].Host != "k_a" || creds[1].Guest != reqs[1].Guest || creds[1].Shown != "l:"+w.path("key") {
		t.Errorf("%+v, %v", creds, list)
	}
	reqs[0].Guest = strings.Repeat("y", 254)
	_, list = Gather(context.Background(), reqs, w.env)
	if len(list) != 1 || !strings.Contains(list[0].What, "in the guest: the name has 256 bytes") {
		t.Errorf("%v", list)
	}
}

func TestHostEnv(t *testing.T) {
	env := HostEnv("microvm@x.service", "/run/c")
	if env.Unit != "microvm@x.service" || env.Directory != "/run/c" || env.SystemDirectory != "/run/credentials/@system" {
		t.Errorf("%+v", env)
	}
	// The order is systemd's.
	if got, want := strings.Join(env.StoreDirs, " "), "/etc/credstore /run/credstore /usr/local/lib/credstore /usr/lib/credstore"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := strings.Join(env.EncryptedStoreDirs, " "), "/run/credentials/@encrypted /etc/credstore.encrypted /run/credstore.encrypted /usr/local/lib/credstore.encrypted /usr/lib/credstore.encrypted"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// In [Service] the last assignment of an ID counts, as in systemd.
func TestServiceAssignsTwice(t *testing.T) {
	w := newWorld(t).file("one", "1").file("two", "2")
	w.service("LoadCredential=host:DIR/one", "LoadCredential=host:DIR/two")
	w.one("Credential=host", "host=2 (file DIR/two)")
}

func TestRequestsThatCannotBe(t *testing.T) {
	w := newWorld(t).file("key", "x")
	lines := []string{
		"LoadCredential=a:DIR/key", "LoadCredential=a:DIR/other", "LoadCredentialEncrypted=a:DIR/key",
		"SetCredential=b:secret1", "SetCredentialEncrypted=b:secret2",
		"LoadCredential=ampoule.plan:DIR/key", "Credential=ampoule.x:host", "ImportCredential=ampoule.*", "ImportCredential=x*:ampoule.",
		"LoadCredential=:DIR/key", "SetCredential=a/b:secret3", "ImportCredential=a?",
	}
	w.expect(lines, nil, []string{
		"vm:2: LoadCredential=a:DIR/other: credential a is there already, from vm:1; keep one of the two",
		"vm:3: LoadCredentialEncrypted=a:DIR/key: credential a is there already, from vm:1; keep one of the two",
		"vm:5: SetCredentialEncrypted=b:…: credential b is there already, from vm:4; keep one of the two",
		`vm:6: LoadCredential=ampoule.plan:DIR/key: names that begin with "ampoule." are reserved; choose another name`,
		`vm:7: Credential=ampoule.x:host: names that begin with "ampoule." are reserved; choose another name`,
		`vm:8: ImportCredential=ampoule.*: names that begin with "ampoule." are reserved; choose another name`,
		`vm:9: ImportCredential=x*:ampoule.: names that begin with "ampoule." are reserved; choose another name`,
		"vm:10: LoadCredential=:DIR/key: the name is empty; " + rule.NameForm,
		"vm:11: SetCredential=a/b:…: the name contains '/'; " + rule.NameForm,
		"vm:12: ImportCredential=a?: the pattern contains '?'; " + rule.GlobForm,
	})
	_, list := Gather(context.Background(), []Request{{Kind: "rubbish", ID: "a"}}, w.env)
	if len(list) != 1 || !strings.Contains(list[0].What, `unknown kind of credential "rubbish"`) {
		t.Errorf("%v", list)
	}
	huge := Request{Kind: Set, ID: "a", Value: make([]byte, rule.MaxSize+1), Origin: diag.Origin{File: "vm", Line: 1}, Key: "SetCredential", Shown: "a:…"}
	_, list = Gather(context.Background(), []Request{huge}, w.env)
	if want := "vm:1: SetCredential=a:…: plan is too large; at most 1048576 bytes are possible"; len(list) != 1 || list[0].Error() != want {
		t.Errorf("%v, want %s", list, want)
	}
	if creds, list := Gather(context.Background(), nil, Env{}); len(creds) != 0 || len(list) != 0 {
		t.Errorf("nothing gives %v, %v", creds, list)
	}
}

func TestSizes(t *testing.T) {
	w := newWorld(t)
	zeros := func(n int) string { return strings.Repeat("\x00", n) }
	w.file("fits", zeros(rule.MaxTotal-1)).file("one more", zeros(rule.MaxSize)).file("too large", zeros(rule.MaxSize+1)).
		file("half", zeros(rule.MaxTotal/2-1)).file("sparse", "")
	if err := os.Truncate(w.path("sparse"), 1<<40); err != nil {
		t.Fatal(err)
	}
	if creds, problems := w.gather("LoadCredential=a:DIR/fits"); len(creds) != 1 || problems != nil {
		t.Errorf("%d credentials, %q", len(creds), problems)
	}
	total := "at most 1048576 bytes are possible, names included"
	w.one("LoadCredential=a:DIR/one more", "vm:1: LoadCredential=a:DIR/one more: with this one all credentials together take 1048577 bytes; "+total)
	w.one("LoadCredential=a:DIR/too large", "vm:1: LoadCredential=a:DIR/too large: file DIR/too large is too large; at most 1048576 bytes are possible")
	w.one("LoadCredential=a:DIR/sparse", "vm:1: LoadCredential=a:DIR/sparse: file DIR/sparse is too large; at most 1048576 bytes are possible")
	if creds, problems := w.gather("LoadCredential=a:DIR/half", "LoadCredential=b:DIR/half"); len(creds) != 2 || problems != nil {
		t.Errorf("%d credentials, %q", len(creds), problems)
	}
	w.expect([]string{"LoadCredential=a:DIR/half", "LoadCredential=bc:DIR/half", "SetCredential=d:"}, nil,
		[]string{"vm:2: LoadCredential=bc:DIR/half: with this one all credentials together take 1048578 bytes; " + total})
	// A directory without end is not read to its end.
	for i := range 40 {
		w.file(fmt.Sprintf("many/%d", i), zeros(rule.MaxSize/4))
	}
	_, problems := w.gather("LoadCredential=a:DIR/many")
	if len(problems) != 1 || !strings.Contains(problems[0], "take more than 4194") {
		t.Errorf("%q", problems)
	}
}
