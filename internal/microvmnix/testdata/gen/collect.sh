# collect DIRECTORY RUNNER [FILE...]: what runners.nix says of a fixture, in DIRECTORY.

# references FILE: the files of the store, not the directories, that FILE names.
references() {
  grep -aoE '/nix/store/[0-9a-df-np-sv-z]{32}-[-+._?=0-9a-zA-Z]+' "$1" | sort -u | while read -r path; do
    case $path in
      *-microvm-store-disk.*) ;;
      *) if [ -f "$path" ]; then echo "$path"; fi ;;
    esac
  done
}

# keep DIRECTORY PATH: a file of the store and what it names into DIRECTORY/store.
keep() {
  for path in $(references "$2") $3; do
    if [ ! -e "$1/store/${path##*/}" ]; then
      mkdir -p "$1/store"
      cp "$path" "$1/store/"
      printf 'store/%s\t%s\n' "${path##*/}" "$path" >> "$1/paths"
      (keep "$1" "$path" "")
    fi
  done
}

collect() {
  mkdir -p "$1/bin"
  printf '.\t%s\n' "$2" >> "$1/paths"
  for script in "$2"/bin/*; do
    cp -L "$script" "$1/bin/"
    printf 'bin/%s\t%s\n' "${script##*/}" "$(readlink -f "$script")" >> "$1/paths"
  done
  cp -RH "$2/share" "$1/share"
  if [ -L "$2/share/microvm/system" ]; then
    printf 'share/microvm/system\t%s\n' "$(readlink "$2/share/microvm/system")" >> "$1/paths"
  fi
  directory=$1 runner=$2
  shift 2
  for script in "$runner"/bin/*; do keep "$directory" "$script" ""; done
  for file; do keep "$directory" /dev/null "$file"; done
}
