package adopt

import (
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/microvmnix"
)

// volume says how a script makes a volume, as options of Disk= where it has them.
func volume(v *microvmnix.Volume) string {
	out := "size=" + strconv.FormatInt(v.Size, 10) + "M,fs=" + v.FSType
	if v.Label != "" {
		out += ",label=" + v.Label
	}
	if len(v.Args) > 0 {
		out += " mkfs " + strings.Join(v.Args, " ")
	}
	return out
}

// fits reports whether Disk= has all that is needed to make a volume.
func fits(v *microvmnix.Volume) bool {
	return len(v.Args) == 0 && slices.Contains([]string{"ext4", "xfs", "btrfs", "vfat"}, v.FSType)
}

// volumeOf is the volume that a script makes at a path.
func (s *sheet) volumeOf(image string) *microvmnix.Volume {
	for _, st := range s.runner.Script.Statements {
		if st.Volume != nil && st.Volume.Image == image {
			return st.Volume
		}
	}
	return nil
}
