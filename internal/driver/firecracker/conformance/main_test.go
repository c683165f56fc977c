package conformance

import (
	"os"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver/firecracker/fake"
)

func TestMain(m *testing.M) {
	fake.RunIfCalled()
	os.Exit(m.Run())
}
