final: _prev: { ampoule = final.callPackage ./package.nix { }; }
