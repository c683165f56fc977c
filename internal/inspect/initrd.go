package inspect

// Initrd is what was seen in an initial RAM disk.
type Initrd struct {
	Identity Identity
}
