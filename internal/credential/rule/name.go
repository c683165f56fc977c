package rule

import (
	"errors"
	"fmt"
	"strings"
)

// The limits, those of systemd on either side of the channel.
const (
	// MaxName is the length of a name in bytes.
	MaxName = 255
	// MaxSize is the size of one credential in bytes.
	MaxSize = 1 << 20
	// MaxTotal bounds the sizes of all credentials of one VM together, the
	// lengths of their names included.
	MaxTotal = 1 << 20
	// MaxEncrypted is the size of one credential in its encrypted, Base64 form
	// as it stands in a file: MaxSize and 128 KiB for headers and keys, in
	// Base64 with line breaks.
	MaxEncrypted = (MaxSize + 128<<10) * 3 / 2
)

// ReservedPrefix begins the names that are Ampoule's own.
const ReservedPrefix = "ampoule."

// Messages of what would be accepted.
const (
	NameForm = "a name has 1 to 255 printable ASCII characters, without / and :, and is not . or .."
	GlobForm = "a pattern is a credential name, or the beginning of one with * at its end; it has no other *, ?, [ or ]"
	PathForm = "a path is absolute, without . and .. in it, and shorter than 4096 bytes"
)

// Name reports what is wrong with the name of a credential: nil where systemd
// takes it, on the host and in the guest. The error does not repeat the name.
func Name(s string) error {
	switch {
	case s == "":
		return errors.New("the name is empty")
	case len(s) > MaxName:
		return fmt.Errorf("the name has %d bytes, at most %d are possible", len(s), MaxName)
	case s == "." || s == "..":
		return errors.New("the name is that of a directory")
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c == '/' || c == ':':
			return fmt.Errorf("the name contains %q", c)
		case c < 0x20 || c >= 0x7f:
			return fmt.Errorf("the name contains byte %#02x", c)
		}
	}
	return nil
}

// UnitSafe reports what keeps a name, pattern or path from standing in a
// credential assignment of a unit. A systemd of 255 or later hands these to
// its executor as words between blanks, and takes backslashes away: with a
// blank in one of them the unit fails to start without naming it, and
// ImportCredential= silently means something else. Measured with 257; 252 takes
// them all.
func UnitSafe(s string) error {
	if i := strings.IndexAny(s, " \\\n"); i >= 0 {
		return fmt.Errorf("systemd cannot pass %q on in a credential's name or source", s[i])
	}
	return nil
}

// PlanName is the credential by which a unit carries its VM's plan.
const PlanName = ReservedPrefix + "plan"

// ProblemsName is the credential by which a unit that cannot start carries the
// reasons, one line each.
const ProblemsName = ReservedPrefix + "problems"

// MissingMarker is the content of a credential whose source was not there when
// systemd loaded it: the unit gives it in the source's place. It is no secret,
// and nothing that anybody would use for one.
const MissingMarker = "ampoule: the source of this credential was missing"

// Reserved reports whether a name is Ampoule's own and not for users.
func Reserved(name string) bool { return strings.HasPrefix(name, ReservedPrefix) }

// Path reports what is wrong with the path of a source: nil where systemd
// takes it as an absolute path.
func Path(s string) error {
	switch {
	case !strings.HasPrefix(s, "/"):
		return errors.New("the path is not absolute")
	case len(s) >= 4096:
		return fmt.Errorf("the path has %d bytes", len(s))
	case strings.ContainsRune(s, 0):
		return errors.New("the path contains a NUL byte")
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "." || part == ".." {
			return fmt.Errorf("the path contains %q", part)
		}
	}
	return nil
}

// Glob is a pattern of credential names: one name, or all that begin alike.
type Glob struct {
	literal string
	any     bool
}

// ParseGlob reads a pattern as ImportCredential= has it, before the colon.
func ParseGlob(s string) (Glob, error) {
	if s == "*" {
		return Glob{any: true}, nil
	}
	literal, any := strings.CutSuffix(s, "*")
	if i := strings.IndexAny(literal, "*?[]"); i >= 0 {
		return Glob{}, fmt.Errorf("the pattern contains %q", literal[i])
	}
	if err := Name(literal); err != nil {
		return Glob{}, err
	}
	return Glob{literal, any}, nil
}

// String returns the pattern as it was written.
func (g Glob) String() string {
	if g.any {
		return g.literal + "*"
	}
	return g.literal
}

// Match reports whether the pattern covers name. As in a shell, * alone does
// not cover a name that begins with a dot.
func (g Glob) Match(name string) bool {
	if !g.any {
		return name == g.literal
	}
	if g.literal == "" && strings.HasPrefix(name, ".") {
		return false
	}
	return strings.HasPrefix(name, g.literal)
}

// Rename returns the name under which a matching credential arrives where the
// pattern was followed by :TO. What * stood for is kept. An empty to keeps the
// name. The result may be no valid name.
func (g Glob) Rename(name, to string) string {
	if to == "" {
		return name
	}
	if !g.any {
		return to
	}
	return to + strings.TrimPrefix(name, g.literal)
}

// Renamed returns the pattern that the names after [Glob.Rename] match. It need
// not be one that ParseGlob takes.
func (g Glob) Renamed(to string) Glob {
	if to == "" {
		return g
	}
	return Glob{to, g.any}
}

// Original undoes [Glob.Rename].
func (g Glob) Original(name, to string) string {
	if to == "" {
		return name
	}
	if !g.any {
		return g.literal
	}
	return g.literal + strings.TrimPrefix(name, to)
}
