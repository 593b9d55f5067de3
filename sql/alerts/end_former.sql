update alerts set ended = $1 where ended is null and since < $1
