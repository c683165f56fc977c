package nixhost

import (
	"fmt"
	"os"
	"path/filepath"
)

// filler is the number of a path that only fills the store, as SQL and this package have
// its name: half of a store are derivations, and each path refers to eight others.
const filler = `'/nix/store/' || printf('%016d%016d', (i * 2654435761) % 10000000000000000, i) || printf('-package-%d-1.0%s', i, iif(i % 2, '', '.drv'))`

func fillerName(i int) string {
	suffix := ""
	if i%2 == 0 {
		suffix = ".drv"
	}
	return fmt.Sprintf("%016d%016d-package-%d-1.0%s", i*2654435761%10000000000000000, i, i, suffix)
}

// Fill fills the store of a finished tree with paths that no VM has to do with, in its
// directory and in its database, and with the run scripts that each VM's rebuilds have left.
func (h *Host) Fill(paths, scripts int) {
	h.t.Helper()
	h.SQL(fmt.Sprintf(`pragma synchronous=off; begin;
create temp table n as with recursive r(i) as (select 0 union all select i+1 from r where i < %d) select i from r;
create temp table base as select coalesce(max(id), 0) + 1 as id from ValidPaths;
insert into ValidPaths select (select id from base) + i, %s, 'sha256:' || printf('%%064d', i), 1750000000 + i, null, 4096, 1, null, null from n;
insert or ignore into Refs select (select id from base) + n.i, (select id from base) + (n.i * 7919 + k.i * 104729) %% n.i from n, (select column1 as i from (values (0), (1), (2), (3), (4), (5), (6), (7))) k where n.i > 0;
commit;`, paths-1, filler))
	for i := range paths {
		at := h.At(filepath.Join("/nix/store", fillerName(i)))
		if i%2 == 0 {
			h.ok(os.WriteFile(at, nil, 0o444))
		} else {
			h.ok(os.Mkdir(at, 0o555))
		}
	}
	for _, vm := range h.vms {
		for i := range scripts {
			h.ok(os.WriteFile(h.At(fmt.Sprintf("/nix/store/%032d-microvm-%s-microvm-run", i, vm.HostName)), []byte("#!"+h.bash()+"\nset -eou pipefail\nexec false\n"), 0o555))
		}
	}
}
