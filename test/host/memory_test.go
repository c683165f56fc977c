package host

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestMemoryOfService: the sandbox of a service lets its guest have huge pages, and
// memory that comes and goes by ampoule memory, which nobody else may ask.
func TestMemoryOfService(t *testing.T) {
	need.All(t, need.VMAll)
	const pages = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	text, err := os.ReadFile(pages)
	was, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil {
		err = os.WriteFile(pages, []byte(strconv.Itoa(was+320)), 0)
	}
	if err != nil {
		t.Skipf("no huge pages here: %v", err)
	}
	t.Cleanup(func() { _ = os.WriteFile(pages, []byte(strconv.Itoa(was)), 0) })
	onEach(t, func(h *host) {
		h.file("/etc/ampoule/web.microvm", vm("stay")+"MemoryHotplug=128M\nBalloon=yes\n")
		h.sh("systemctl daemon-reload; systemctl start microvm@web", within(4*time.Minute))
		h.sh("ampoule memory web 640M", within(time.Minute), says("The guest has  640M"))
		h.sh("ampoule memory web 448M", within(time.Minute), says("The guest has  448M"))
		h.sh("stat -c mode-%a /run/ampoule/vm/web/orders", says("mode-600"))
		h.sh("setpriv --reuid=nobody --clear-groups ampoule memory web || echo refused", says("refused"))
		// A start has Memory= again.
		h.sh("systemctl restart microvm@web; ampoule memory web", within(4*time.Minute), says("Asked          512M"))

		h.file("/etc/ampoule/web.microvm", vm("stay")+"MemoryHotplug=128M\nHugePages=2M\n")
		h.sh("systemctl daemon-reload; systemctl restart microvm@web", within(4*time.Minute))
		h.sh("ampoule memory web 640M", within(time.Minute), says("The guest has  640M"))
		h.sh("awk '/HugePages_Free/ { free = $2 } /HugePages_Rsvd/ { print \"left\", free - $2 }' /proc/meminfo", says("left "+strconv.Itoa(was)+"\n"))
		h.sh("systemctl stop microvm@web; systemctl show -p Result microvm@web", within(2*time.Minute), says("Result=success"))
		h.sh("find /run/ampoule -type s | wc -l", says("0\n"))
	})
}
