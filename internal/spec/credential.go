package spec

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// CredentialKind says where a credential comes from.
type CredentialKind string

// The kinds, each after its key.
const (
	Load          CredentialKind = "load"
	LoadEncrypted CredentialKind = "load-encrypted"
	Set           CredentialKind = "set"
	SetEncrypted  CredentialKind = "set-encrypted"
	Import        CredentialKind = "import"
	Pass          CredentialKind = "pass"
)

// Credential is one credential line. It holds no secret: the value of Set is
// public by its nature, that of SetEncrypted is sealed.
type Credential struct {
	Kind CredentialKind
	// ID is the name on the host; for Import a name or a glob with one
	// trailing *.
	ID string
	// Guest is the name in the guest. For Import it is the new name, or the
	// new prefix where ID is a glob; empty keeps the names.
	Guest string
	// Path is the source of Load: an absolute path, or a name that systemd
	// looks up.
	Path string
	// Value of Set, and the Base64 text of SetEncrypted.
	Value []byte
	From  From
}

const (
	acceptedLoad         = "accepted: ID, or ID:PATH with an absolute path of a file, directory or socket, or the name of a credential of the host"
	acceptedSet          = "accepted: ID:VALUE with C escapes such as \\n or \\x23"
	acceptedSetEncrypted = "accepted: ID:BASE64, as systemd-creds encrypt -p prints it"
	acceptedImport       = "accepted: NAME, or PREFIX*, each with :NEWNAME after it if wanted"
	acceptedPass         = "accepted: GUESTNAME:HOSTNAME, or one name for both"
)

func credentialRows() []Row {
	return []Row{
		{
			Name: "LoadCredential", Merge: layer.ByID, Group: "LoadCredential", Form: "ID[:PATH]", Accepted: acceptedLoad,
			Help: "A credential from a file, a directory (one credential per file, ID_NAME) or an AF_UNIX stream socket, with systemd's meaning; it also goes into the guest, under the same name. " +
				"Without PATH, or with a name as PATH, it is looked up among the host's credentials and in the credstore directories; one that is found nowhere is an error.",
			id: credentialID, shown: showLoad, apply: loadCredential(Load),
		},
		{
			Name: "LoadCredentialEncrypted", Merge: layer.ByID, Group: "LoadCredential", Form: "ID[:PATH]", Accepted: acceptedLoad,
			Help: "The same from a file that systemd-creds encrypt made.",
			id:   credentialID, shown: showLoad, apply: loadCredential(LoadEncrypted),
		},
		{
			Name: "SetCredential", Merge: layer.ByID, Group: "SetCredential", Form: "ID:VALUE", Accepted: acceptedSet,
			Help: "A setting that is not secret: its value stands in the unit and in the plan, and every user of the host can read it. C escapes are undone. " +
				"Beside a LoadCredential= of the same ID it is the default for a missing file.",
			id: credentialID, shown: elideID, apply: setCredential(Set),
		},
		{
			Name: "SetCredentialEncrypted", Merge: layer.ByID, Group: "SetCredential", Form: "ID:BASE64", Accepted: acceptedSetEncrypted,
			Help: "A credential that systemd-creds encrypt sealed, in Base64.",
			id:   credentialID, shown: elideID, apply: setCredential(SetEncrypted),
		},
		{
			Name: "ImportCredential", Merge: layer.List, Form: "GLOB[:NEWNAME]", Accepted: acceptedImport,
			Help:  "All credentials of the host and of the credstore directories whose name matches; * may stand at the end. NEWNAME replaces the name, or the part before the *.",
			shown: showImport, apply: importCredential,
		},
		{
			Name: "Credential", Merge: layer.ByID, Group: "Credential", Form: "GUESTNAME[:HOSTNAME]", Accepted: acceptedPass,
			Help: "Passes a credential that [Service] loads to the guest, under a name of its own.",
			id:   credentialID, shown: showPass, apply: passCredential,
		},
		{
			Name: "CredentialChannel", Form: "auto|smbios|fw_cfg|initrd", Default: "auto", Words: []string{"auto", "smbios", "fw_cfg", "initrd"},
			Accepted: "accepted: auto, smbios, fw_cfg, initrd",
			Help: "The way into the guest. auto takes the first that the hypervisor and the machine type have and that all credentials fit; a channel that is named and does not fit is an error. " +
				"Nothing is ever cut. initrd puts an archive with the credentials in front of the initial RAM disk, in memory, and the program ampoule-init, which the kernel starts first: " +
				"it moves them into the guest's credential store and executes the guest's own init, which is to be systemd's.",
			apply: setScalar(func(vm *VM) *Setting[string] { return &vm.CredentialChannel },
				func(s string) (string, error) { return ParseWordOf(s, "auto", "smbios", "fw_cfg", "initrd") }),
		},
	}
}

var errNoColon = errors.New(`what stands behind the name follows a colon, not "="`)

// credentialID returns what stands before the first colon.
func credentialID(value string) string {
	id, _, _ := strings.Cut(value, ":")
	return id
}

// showLoad keeps the path of a source, and hides what is no path: it may be
// the secret itself, written into the wrong key.
func showLoad(value string) string {
	id, source, ok := strings.Cut(value, ":")
	switch {
	case !ok && strings.Contains(id, "="):
		return diag.Elide(id, "=")
	case !ok && len(id) <= 64:
		return id
	case strings.HasPrefix(source, "/"):
		return value
	}
	return elideID(value)
}

// showPass hides what is no name: it may be the secret itself, written where
// the name of a credential belongs.
func showPass(value string) string {
	guest, host, ok := strings.Cut(value, ":")
	switch {
	case !ok && strings.Contains(guest, "="):
		return diag.Elide(guest, "=")
	case ok && rule.Name(host) == nil, !ok && rule.Name(guest) == nil:
		return value
	}
	return elideID(value)
}

// showImport does the same for what stands behind a pattern.
func showImport(value string) string {
	if _, name, ok := strings.Cut(value, ":"); ok && rule.Name(name) != nil {
		return elideID(value)
	}
	return value
}

// checkCredentialName says what is wrong with the name of a credential.
func checkCredentialName(name string) error {
	if rule.Reserved(name) {
		return &valueError{"names that begin with " + rule.ReservedPrefix + " are reserved", "choose another name"}
	}
	if err := rule.Name(name); err != nil {
		return &valueError{err.Error(), rule.NameForm}
	}
	return nil
}

func (r *reader) credentialName(raw string) (string, error) {
	name, err := r.Identity.Expand(raw)
	if err != nil {
		return "", err
	}
	return name, checkCredentialName(name)
}

func loadCredential(kind CredentialKind) func(*reader, string, From) error {
	return func(r *reader, value string, from From) error {
		c, err := r.parseLoad(kind, value)
		if err != nil {
			return err
		}
		c.From = from
		r.vm.Credentials = append(r.vm.Credentials, c)
		return nil
	}
}

func (r *reader) parseLoad(kind CredentialKind, value string) (Credential, error) {
	rawID, rawPath, hasPath := strings.Cut(value, ":")
	if !hasPath && strings.Contains(rawID, "=") {
		// A name may have "=" in it, but this is NAME=PATH, or worse, NAME=SECRET.
		return Credential{}, errNoColon
	}
	id, err := r.credentialName(rawID)
	if err != nil {
		return Credential{}, err
	}
	source, err := r.Identity.Expand(rawPath)
	if err != nil {
		return Credential{}, err
	}
	switch {
	case source == "":
		source = id
	case path.IsAbs(source):
		if source, err = cleanPath(source); err != nil {
			return Credential{}, err
		}
	default:
		if checkCredentialName(source) != nil {
			return Credential{}, fmt.Errorf("the source is neither an absolute path nor the name of a credential")
		}
	}
	return Credential{Kind: kind, ID: id, Guest: id, Path: source}, nil
}

func setCredential(kind CredentialKind) func(*reader, string, From) error {
	return func(r *reader, value string, from From) error {
		c, err := r.parseSet(kind, value)
		if err != nil {
			return err
		}
		c.From = from
		r.vm.Credentials = append(r.vm.Credentials, c)
		return nil
	}
}

func (r *reader) parseSet(kind CredentialKind, value string) (Credential, error) {
	rawID, text, ok := strings.Cut(value, ":")
	if !ok {
		return Credential{}, fmt.Errorf("there is no colon between ID and value")
	}
	id, err := r.credentialName(rawID)
	switch {
	case err != nil:
		return Credential{}, err
	case text == "":
		return Credential{}, fmt.Errorf("the value is empty, and systemd ignores such a line")
	}
	c := Credential{Kind: kind, ID: id, Guest: id}
	if kind == SetEncrypted {
		c.Value = []byte(strings.Join(strings.Fields(text), ""))
		if strings.Trim(string(c.Value), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") != "" {
			return Credential{}, fmt.Errorf("the value is not Base64")
		}
		return c, nil
	}
	plain, err := unitfile.Unescape(text, true)
	if err != nil {
		return Credential{}, fmt.Errorf("the value has an escape that systemd does not know")
	}
	c.Value = []byte(plain)
	return c, nil
}

func importCredential(r *reader, value string, from From) error {
	c, err := r.parseImport(value)
	if err != nil {
		return err
	}
	c.From = from
	r.vm.Credentials = append(r.vm.Credentials, c)
	return nil
}

func (r *reader) parseImport(value string) (Credential, error) {
	expanded, err := r.Identity.Expand(value)
	if err != nil {
		return Credential{}, err
	}
	glob, newName, renamed := strings.Cut(expanded, ":")
	if rule.Reserved(glob) {
		return Credential{}, checkCredentialName(glob)
	}
	if _, err := rule.ParseGlob(glob); err != nil {
		return Credential{}, &valueError{err.Error(), rule.GlobForm}
	}
	if renamed {
		if err := checkCredentialName(newName); err != nil {
			return Credential{}, err
		}
	}
	return Credential{Kind: Import, ID: glob, Guest: newName}, nil
}

func passCredential(r *reader, value string, from From) error {
	rawGuest, rawHost, ok := strings.Cut(value, ":")
	if !ok && strings.Contains(rawGuest, "=") {
		return errNoColon
	}
	guest, err := r.credentialName(rawGuest)
	if err != nil {
		return err
	}
	host := guest
	if ok {
		if host, err = r.credentialName(rawHost); err != nil {
			return err
		}
	}
	r.vm.Credentials = append(r.vm.Credentials, Credential{Kind: Pass, ID: host, Guest: guest, From: from})
	return nil
}

// checkCredentials refuses two sources for one guest name. A Set beside a Load
// of the same name is its default, and an Import yields to both, as in systemd.
func (r *reader) checkCredentials() {
	// A guest name has at most one source of each rank; the zero From is none.
	const first, fallback = 0, 1
	sources := make(map[string]*[2]From, len(r.vm.Credentials))
	for i := range r.vm.Credentials {
		c := &r.vm.Credentials[i]
		rank := first
		switch c.Kind {
		case Import:
			continue
		case Set, SetEncrypted:
			rank = fallback
		case Load, LoadEncrypted, Pass:
		}
		have := sources[c.Guest]
		if have == nil {
			have = &[2]From{}
			sources[c.Guest] = have
		}
		other := have[rank]
		if other.Key == "" && (c.Kind == Pass || have[first].Key == "Credential") {
			// A passed credential has its source in [Service]; a default beside
			// it would be a second source.
			other = have[1-rank]
		}
		if other.Key != "" {
			c.From.Errorf(r.problems, "keep one of the two lines", "a second source for the guest's credential %q, which comes from %s=%s (%s)",
				c.Guest, other.Key, other.Shown, other.Origin)
			continue
		}
		have[rank] = c.From
	}
	r.checkServiceCredentials()
}

// checkServiceCredentials refuses a credential of [Service] that the unit has a
// second time for the guest: systemd would take one of the two without a word,
// and of a Load and a Set the Load. Only the default of a Load may stand there.
func (r *reader) checkServiceCredentials() {
	sets := func(c Credential) bool { return c.Kind == Set || c.Kind == SetEncrypted }
	for _, host := range r.vm.ServiceCredentials {
		for _, c := range r.vm.Credentials {
			if c.ID == host.ID && c.Kind != Import && host.Kind != Import && c.Kind != Pass && (sets(c) || !sets(host)) {
				host.From.Errorf(r.problems, "keep one of the two lines; the service has what the guest gets",
					"a second source for the credential %q, which comes from %s=%s (%s)", c.ID, c.From.Key, c.From.Shown, c.From.Origin)
			}
		}
	}
}
