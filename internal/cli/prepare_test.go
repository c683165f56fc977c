package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestPrepareForNobody: root opens nothing for a user that is not the VM's own.
func TestPrepareForNobody(t *testing.T) {
	need.All(t, need.Root)
	dir := filepath.Join(t.TempDir(), "ampoule/vm/web")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("INVOCATION_ID", "0123")
	t.Setenv("RUNTIME_DIRECTORY", dir)
	files, problems := prepare(&cobra.Command{}, &plan.Plan{VM: plan.VM{Name: "web"}})
	if text := problems.Error(); len(files) > 0 || !strings.Contains(text, "the VM's user is nobody") {
		t.Errorf("%v %s", files, text)
	}
}
