package run

import (
	"os"

	"github.com/ampoule-vm/ampoule/internal/credential"
)

// leak makes the mistakes that the leak scan has to find, if a test asked for
// them.
func (g *guest) leak(creds []credential.Credential) {
	for _, c := range creds {
		_ = c.Value.Use(func(value []byte) error {
			if g.Leak.Argv {
				g.cmd.add("", "-fw_cfg", "name=opt/leak,string="+string(value))
				g.Leak.Argv = false
			}
			if g.Leak.File {
				if f, err := os.CreateTemp("", "ampoule-leak-*"); err == nil {
					_, _ = f.Write(value)
					f.Close()
				}
				g.Leak.File = false
			}
			return nil
		})
	}
}
