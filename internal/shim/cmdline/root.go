package cmdline

import "strings"

// Kind says how a root device is named.
type Kind int

// The kinds.
const (
	Nothing    Kind = iota // no root= at all
	Disk                   // /dev/NAME
	Number                 // MAJOR:MINOR, or the kernel's hexadecimal number
	PartUUID               // PARTUUID=
	PartLabel              // PARTLABEL=
	Tag                    // for a file system without a device
	Impossible             // the shim cannot, see Reason
)

// Root is a root device as root= names it.
type Root struct {
	Kind Kind
	// Name is that of the device in sysfs, the UUID or the label. Of a UUID the
	// beginning is enough, as for the kernel.
	Name string
	// Major and Minor are those of a Number.
	Major, Minor uint32
	// Offset is that of PARTNROFF: how many partitions behind the one with the
	// UUID, possibly negative.
	Offset int
	// Source is what a file system without a device is mounted from.
	Source string
	// Reason says why a root is Impossible.
	Reason string
}

// maxDevice is the longest name of a device in bytes, as the kernel has it.
const maxDevice = 31

// ParseRoot reads the value of root=.
func ParseRoot(s string) Root {
	source := strings.TrimPrefix(s, "/dev/")
	impossible := func(reason string) Root { return Root{Kind: Impossible, Source: source, Reason: reason} }
	if s == "" {
		return Root{}
	}
	for _, prefix := range []string{"mtd", "ubi"} {
		if strings.HasPrefix(s, prefix) {
			return impossible("flash memory is not supported")
		}
	}
	if s == "/dev/nfs" || s == "/dev/cifs" || s == "/dev/ram" {
		return impossible("roots on the network and RAM disks are not supported")
	}
	if uuid, ok := strings.CutPrefix(s, "PARTUUID="); ok {
		return partUUID(uuid, impossible)
	}
	if label, ok := strings.CutPrefix(s, "PARTLABEL="); ok {
		return Root{Kind: PartLabel, Name: label, Source: source}
	}
	for _, prefix := range []string{"UUID=", "LABEL="} {
		if strings.HasPrefix(s, prefix) {
			return impossible("only an initrd can find a file system by its " + prefix + "; PART" + prefix + " and /dev/NAME can be found")
		}
	}
	if source != s {
		if source == "" || len(source) > maxDevice {
			return impossible("no device has such a name")
		}
		return Root{Kind: Disk, Name: strings.ReplaceAll(source, "/", "!"), Source: source}
	}
	return deviceNumber(s)
}

func partUUID(s string, impossible func(string) Root) Root {
	r := Root{Kind: PartUUID, Name: s, Source: "PARTUUID=" + s}
	uuid, offset, has := strings.Cut(s, "/")
	if has {
		digit, ok := strings.CutPrefix(offset, "PARTNROFF=")
		negative := strings.HasPrefix(digit, "-")
		if negative || strings.HasPrefix(digit, "+") {
			digit = digit[1:]
		}
		n, rest := digits(digit, 10)
		if !ok || digit == "" || rest != "" || n > 1<<16 {
			return impossible("behind a PARTUUID stands nothing, or /PARTNROFF= and a number")
		}
		r.Name, r.Offset = uuid, int(n)
		if negative {
			r.Offset = -r.Offset
		}
	}
	if r.Name == "" {
		return impossible("the PARTUUID is empty")
	}
	return r
}

// deviceNumber reads MAJOR:MINOR in decimal, or the number that the kernel
// writes in hexadecimal; what is neither is a tag.
func deviceNumber(s string) Root {
	r := Root{Kind: Number, Source: s}
	if major, minor, ok := strings.Cut(s, ":"); ok {
		minor, _, _ = strings.Cut(minor, ":") // an offset, long without a meaning
		x, rest1 := digits(major, 10)
		y, rest2 := digits(minor, 10)
		if major == "" || minor == "" || rest1 != "" || rest2 != "" || x > 0xfff || y > 0xfffff {
			return Root{Kind: Tag, Source: s}
		}
		r.Major, r.Minor = uint32(x), uint32(y)
	} else {
		hex := s
		if len(s) > 2 && s[0] == '0' && s[1]|0x20 == 'x' {
			hex = s[2:]
		}
		n, rest := digits(hex, 16)
		if rest != "" {
			return Root{Kind: Tag, Source: s}
		}
		r.Major = uint32(n>>8) & 0xfff
		r.Minor = uint32(n&0xff) | uint32(n>>12)&0xfff00
	}
	if r.Major == 0 && r.Minor == 0 {
		return Root{Kind: Tag, Source: s} // zero is the kernel's word for none
	}
	return r
}
