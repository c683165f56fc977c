package credential

import (
	"context"
	"time"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// Kind is the kind of assignment that asks for a credential.
type Kind string

// The kinds.
const (
	Load          Kind = "load"
	LoadEncrypted Kind = "load-encrypted"
	Set           Kind = "set"
	SetEncrypted  Kind = "set-encrypted"
	Import        Kind = "import"
	// Pass hands on a credential that [Service] loads for the host's side.
	Pass Kind = "pass"
)

// Request is one assignment: LoadCredential=ID:PATH and so on.
type Request struct {
	Kind Kind
	// ID is the name on the host; for Import the glob, for Pass the name of
	// the credential that [Service] loads.
	ID string
	// Guest is the name in the guest; empty means as on the host. For Import
	// it is what replaces the part of the name before *.
	Guest string
	// Path is the source of Load and LoadEncrypted: absolute, or the name to
	// look up in the stores; empty means ID.
	Path string
	// Value is that of Set, which is not secret, or the Base64 blob of
	// SetEncrypted.
	Value []byte
	// Origin, Key and Shown are for messages: where the assignment stands, its
	// key, and its value with everything that can be secret cut out.
	Origin diag.Origin
	Key    string
	Shown  string
}

// guest returns the name in the guest of the credential with this host ID.
func (r Request) guest() string {
	if r.Guest == "" {
		return r.ID
	}
	return r.Guest
}

func (r Request) encrypted() bool { return r.Kind == LoadEncrypted || r.Kind == SetEncrypted }

// Credential is one that goes into the guest. The receiver of a credential
// wipes its value.
type Credential struct {
	// Guest is the name in the guest, Host that on the host, where the file in
	// $CREDENTIALS_DIRECTORY has it.
	Guest, Host string
	Value       *secret.Value
	// Origin, Key and Shown are the assignment that asked for it, for messages.
	Origin     diag.Origin
	Key, Shown string
	// Source says for people where the bytes came from: "file /x", "socket
	// /x", "$CREDENTIALS_DIRECTORY", "credstore /etc/credstore/x", "plan".
	Source string
}

// Env is what surrounds a run.
type Env struct {
	// Directory is $CREDENTIALS_DIRECTORY; empty means that the sources are
	// read by hand.
	Directory string
	// SystemDirectory holds the credentials that the host itself received.
	SystemDirectory string
	// StoreDirs and EncryptedStoreDirs are searched for names without a path,
	// in this order.
	StoreDirs, EncryptedStoreDirs []string
	// Unit is the name of the VM's unit, which a socket source is told.
	Unit string
	// Service holds what the unit's [Service] section asks for. By hand it is
	// where Pass finds its sources; with a Directory it tells which names
	// there are the host's alone.
	Service []Request
	// Marker is the content by which the unit marks a source that was not
	// there when systemd loaded it; empty means that there is no such marker.
	Marker string
	// Timeout bounds the wait for each socket, FIFO and decryption;
	// 0 means DefaultTimeout.
	Timeout time.Duration
	// Decrypt turns an encrypted credential into its value; name is bound into
	// it. nil means [SystemdCreds].
	Decrypt func(ctx context.Context, name string, blob *secret.Value) (*secret.Value, error)
}

// DefaultTimeout is how long a source may take.
const DefaultTimeout = 30 * time.Second

// HostEnv returns the directories of a systemd host, for a unit, with the value
// of $CREDENTIALS_DIRECTORY or "".
func HostEnv(unit, directory string) Env {
	env := Env{
		Directory:          directory,
		SystemDirectory:    "/run/credentials/@system",
		EncryptedStoreDirs: []string{"/run/credentials/@encrypted"},
		Unit:               unit,
	}
	for _, prefix := range []string{"/etc", "/run", "/usr/local/lib", "/usr/lib"} {
		env.StoreDirs = append(env.StoreDirs, prefix+"/credstore")
		env.EncryptedStoreDirs = append(env.EncryptedStoreDirs, prefix+"/credstore.encrypted")
	}
	return env
}

// Wipe wipes the values of all.
func Wipe(all []Credential) {
	for _, c := range all {
		c.Value.Wipe()
	}
}
